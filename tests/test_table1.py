"""Table 1 from made-up records, whose counts are known."""

from __future__ import annotations

from itertools import permutations

from tiny import refused

from ddpm_lib.evaluation import Evaluation, Interval
from ddpm_lib.records import Record
from ddpm_lib.table1 import REPORT, Reached, quality_curve, reached, sooner, table_1, to_markdown

NEVER = Reached(None, None, None, None)


def about(value: float, reach: float = 0.0) -> Interval:
    return Interval(value, value - reach, value + reach)


def curve(*values: float, reach: float = 0.0) -> dict[int, Interval]:
    """The values of epochs 1, 2, …"""
    return {epoch: about(value, reach) for epoch, value in enumerate(values, start=1)}


def record(epoch: float, fid: float, w: float = 0.0, kid: float = 0.0) -> Record:
    how = {"n": 1000, "evaluator": "", "sampler": "ddim", "steps": 10, "options": {}, "computed_in": "fp32", "seed": 0}
    rest = {"precision": about(1), "recall": about(1), "accuracy": None}
    evaluation = Evaluation(fid=about(fid), kid=about(kid), guidance_weight=w, **rest, **how)
    return Record("raw", round(468 * epoch), epoch, 0.03, evaluation)


def test_an_exact_falling_curve_reaches_an_exact_bar_at_one_epoch():
    for epoch in range(1, 11):
        assert reached(curve(*range(10, 0, -1)), about(11 - epoch)) == Reached(epoch, epoch, epoch, epoch)


def test_equality_counts_as_reached():
    assert reached(curve(3, 2, 2, 1), about(2)).first == 2
    assert reached(curve(3, 2 + 1e-9, 2, 1), about(2)).first == 3


def test_a_bar_that_is_not_reached_has_no_epoch():
    assert reached(curve(5, 4, 3), about(2)) == NEVER
    assert reached(curve(5, 4, 3, reach=0.5), about(2, 0.5)) == Reached(None, 3, None, None)  # they touch: perhaps


def test_a_curve_that_rises_again_is_there_first_and_for_good_at_different_epochs():
    assert reached(curve(9, 3, 7, 2, 1), about(3)) == Reached(first=2, earliest=2, latest=2, for_good=4)
    assert reached(curve(9, 3, 7, 2, 8), about(3)) == Reached(first=2, earliest=2, latest=2, for_good=None)


def test_the_interval_of_the_count_comes_from_both_intervals():
    falling = curve(8, 7, 6, 5, 4, 3, 2, reach=1)
    assert reached(falling, about(5)) == Reached(first=4, earliest=3, latest=5, for_good=4)
    assert reached(falling, about(5, 1)) == Reached(first=4, earliest=2, latest=6, for_good=4)
    assert reached(falling, about(5, 2)) == Reached(first=4, earliest=1, latest=7, for_good=4)


def test_a_wider_bar_only_widens_the_interval():
    jumping = curve(8, 3, 9, 4, 5, 2, 6, 1, reach=0.7)
    counts = [reached(jumping, about(4, reach)) for reach in (0, 0.5, 1, 2)]
    assert len({(one.first, one.for_good) for one in counts}) == 1
    assert [one.earliest for one in counts] == sorted((one.earliest for one in counts), reverse=True)
    assert all(one.earliest <= one.first for one in counts)
    latest = [one.latest or 99 for one in counts]
    assert latest == sorted(latest)
    assert all(one.first <= end for one, end in zip(counts, latest, strict=True))


def test_the_order_of_a_curves_epochs_does_not_matter_nor_that_some_are_missing():
    for epochs in permutations((5, 10, 15)):
        assert reached({epoch: about(20 - epoch) for epoch in epochs}, about(10)) == Reached(10, 10, 10, 10)


def test_basic_reaches_its_own_bar_at_its_epoch_at_the_latest():
    basic = curve(*(100 / epoch for epoch in range(1, 21)), reach=0.3)
    assert reached(basic, basic[17]).first == 17
    lucky = {**basic, 6: about(5)}
    assert (reached(lucky, basic[17]).first, reached(lucky, basic[17]).for_good) == (6, 17)


def test_a_curve_takes_whole_epochs_of_one_guidance_weight_in_their_order():
    records = [record(2.0, 5), record(1.0, 7), record(1.5, 6), record(1.0, 3, w=1.0)]
    assert quality_curve(records) == {1: about(7), 2: about(5)}
    assert quality_curve(records, guidance_weight=1) == {1: about(3)}
    assert list(quality_curve(records)) == [1, 2]
    assert quality_curve([record(1.0, 7, kid=0.5)], metric="kid") == {1: about(0.5)}


def test_what_gives_no_curve_is_refused():
    records = [record(1.0, 7), record(2.0, 5)]
    with refused(["guidance weight 3", "[0.0]"]):
        quality_curve(records, 3)
    with refused(["'fiid'", "did you mean fid"]):
        quality_curve(records, metric="fiid")
    with refused(["twice"]):
        quality_curve([*records, record(1.0, 6)])


def test_sooner_is_decided_only_where_the_intervals_are():
    early, late, vague = Reached(4, 3, 5, 4), Reached(9, 6, 12, 9), Reached(6, 2, None, 6)
    assert sooner(early, late) is True
    assert sooner(late, early) is False
    assert sooner(early, vague) is sooner(vague, late) is None
    assert sooner(early, NEVER) is True
    assert sooner(NEVER, early) is False
    assert sooner(NEVER, NEVER) is None
    assert sooner(early, early) is None


def test_the_table_shows_the_reports_counts_beside_ours():
    bar = about(2)
    table = table_1({"Basic": curve(4, 3, 2), "Basic + CFG": curve(4, 2, 3), "another": curve(9, 9)}, bar)
    header, _, *rows = to_markdown(table).splitlines()
    assert header.startswith("| variant | the report, by eye |")
    assert rows == [
        "| Basic | 17 | 3 | 3 … 3 | 3 |",
        "| Basic + CFG | 15 | 2 | 2 … 2 | never |",
        "| another | – | never | never … never | never |",
    ]
    assert list(REPORT.values()) == [17, 15, 11]
