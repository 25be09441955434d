"""The blind test asks fairly, tells nothing before the end, and counts right."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import refused

from ddpm_lib.blind_test import SAME, BlindTest, Pair, Source, make_pairs, score
from ddpm_lib.evaluation import Interval
from ddpm_lib.frames import tiles
from ddpm_lib.stored import WIDGET_VIEW


def source(name: str, value: float, reach: float = 0.1, n: int = 12) -> Source:
    """Each of its images is of one grey, which tells the source; pixel (0, 0) tells the image."""
    images = torch.full((n, 1, 28, 28), value / 10)
    images[:, 0, 0, 0] = torch.arange(n) / n
    return Source(name, images, Interval(value, value - reach, value + reach))


SOURCES = [source("bad <1>", 9), source("fair", 5), source("good", 1), source("as good", 1.1)]


def pair(a: float, b: float, reach: float = 0.1) -> Pair:
    return Pair(source("a", a, reach), source("b", b, reach), (torch.zeros(1), torch.zeros(1)))


def meeting(one: Pair) -> frozenset[str]:
    return frozenset((one.a.name, one.b.name))


def test_all_sources_meet_before_two_meet_again():
    pairs = make_pairs(SOURCES, 12, seed=3)
    assert len({meeting(one) for one in pairs[:6]}) == len({meeting(one) for one in pairs[6:]}) == 6


def test_each_row_holds_different_samples_of_its_own_source():
    for one in make_pairs(SOURCES, 6, shown=8):
        for side, row in zip((one.a, one.b), one.rows, strict=True):
            assert row.shape == (8, 1, 28, 28)
            assert set(row[:, 0, 5, 5].tolist()) == {side.images[0, 0, 5, 5].item()}
            assert len(set(row[:, 0, 0, 0].tolist())) == 8


def test_neither_side_nor_order_tells_the_source():
    pairs = make_pairs(SOURCES[:3], 600, shown=1)
    firsts = sum(one.a.quality.value < one.b.quality.value for one in pairs)
    assert 250 < firsts < 350  # a fair coin stays inside with probability 0.99995


def test_the_seed_decides_everything():
    def told(seed: int) -> list:
        return [(one.a.name, one.b.name, one.rows[0][:, 0, 0, 0].tolist()) for one in make_pairs(SOURCES, 9, 5, seed)]

    assert told(1) == told(1)
    assert told(1) != told(2)


def test_the_metric_has_no_opinion_where_intervals_overlap():
    assert pair(1, 2).metric_says == "A"
    assert pair(2, 1).metric_says == "B"
    assert pair(2, 1, reach=0.6).metric_says == SAME


def test_only_pairs_with_two_opinions_count():
    pairs = [pair(1, 2), pair(2, 1), pair(1, 2), pair(1, 2), pair(1, 1)]
    result = score(pairs, ["A", "A", SAME, None, "A"])
    assert (result.agreed, result.decided) == (1, 2)
    assert result.chance == pytest.approx(3 / 4)  # one or two heads in two tosses


def test_the_chance_is_a_coins():
    pairs = [pair(1, 2)] * 10
    assert score(pairs, ["A"] * 10).chance == pytest.approx(1 / 1024)
    assert score(pairs, ["A"] * 9 + ["B"]).chance == pytest.approx(11 / 1024)
    assert score(pairs, ["B"] * 10).chance == score(pairs, [None] * 10).chance == 1


def test_buttons_answer_go_back_and_lead_to_the_result():
    test = BlindTest(SOURCES, count=4)
    assert "pair 1 of 4" in test._view.value
    assert test._back.disabled
    for _ in range(3):
        test._buttons["A"].click()
    test._back.click()
    assert "pair 3 of 4" in test._view.value
    test._buttons["B"].click()
    test._buttons[SAME].click()
    assert test.answers == ["A", "A", "B", SAME]
    assert all(button.disabled for button in test._buttons.values())
    assert "as well or better" in test._view.value
    assert "bad &lt;1&gt; (9.00, 8.90 to 9.10)" in test._view.value
    test._back.click()
    assert "pair 4 of 4" in test._view.value


def test_nothing_tells_the_source_before_the_end():
    test = BlindTest(SOURCES, count=6)
    for _ in range(6):
        shown = re.sub(r"base64,[A-Za-z0-9+/=]+", "", test._view.value)
        assert not any(name in shown for name in ("bad", "fair", "good"))
        test._buttons["A"].click()


def test_the_view_shows_the_two_rows():
    test = BlindTest(SOURCES, count=2, shown=5)
    data, metadata = test._repr_mimebundle_()
    expected = tiles(test.pairs[0].rows, row_labels=["A", "B"], scale=2)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data["image/png"]))), np.asarray(expected))
    assert metadata["image/png"]["alt"].startswith("Pair 1: two rows of 5 samples")


def test_without_a_kernel_every_pair_stays_with_its_answer_folded():
    test = BlindTest(SOURCES, count=5)
    data, _ = test._repr_mimebundle_()
    stored = data["text/html"]
    assert stored.count("<details") == stored.count("<summary>") == stored.count("<img alt=") == 5
    assert "<script" not in stored
    for one, folded in zip(test.pairs, re.findall(r"</summary>(.*?)</details>", stored), strict=True):
        assert folded.endswith(f"The metric says: {one.metric_says}")
    assert WIDGET_VIEW in data


def test_what_is_no_test_is_refused():
    with refused(["1 sources", "at least two"]):
        BlindTest(SOURCES[:1])
    with refused(["bad <1> has fewer than 13"]):
        BlindTest(SOURCES, shown=13)
    with refused(["'C' is not an answer"]):
        BlindTest(SOURCES).answer("C")
