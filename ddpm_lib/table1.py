"""Table 1 of the report, counted and not judged by eye: after how many epochs does a variant reach a bar?

    curves = {name: quality_curve(pretrained.records(model), w) for name, (model, w) in variants.items()}
    table = table_1(curves, bar=curves["Basic"][BAR_EPOCH])

Everything here is a pure function of records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ddpm_lib.errors import InputError, nearest
from ddpm_lib.evaluation import Interval
from ddpm_lib.records import Record

REPORT = {"Basic": 17, "Basic + CFG": 15, "Basic + CFG + EMA": 11}  # epochs to "perfect" images, as printed
BAR_EPOCH = 17  # the report's count for Basic: the quality that it has there is the bar
METRICS = ("fid", "kid")  # lower is better

Curve = Mapping[int, Interval]
"""Epoch -> quality, lower is better."""


@dataclass(frozen=True)
class Reached:
    """When a curve comes down to a bar: epochs, each None if that does not happen in the epochs measured.

    The curve need not fall at each epoch. So it may touch the bar, and rise above it again.
    """

    first: int | None  # at or under the bar for the first time
    earliest: int | None  # the two intervals touch or the curve's is lower: from here on it may have been
    latest: int | None  # the curve's interval lies under the bar's: by here it is beyond doubt
    for_good: int | None  # at or under the bar, and so at all later epochs


def quality_curve(records: Iterable[Record], guidance_weight: float = 0.0, metric: str = "fid") -> dict[int, Interval]:
    """The quality after each whole epoch, in the order of epochs.

    Args:
        records: of one model, as `pretrained.records` gives them.
        guidance_weight: w, one of those recorded.
        metric: one of `METRICS`.

    Raises:
        InputError: no record has this guidance weight, two are of the same epoch, or the metric is unknown.
    """
    if metric not in METRICS:
        raise InputError(f"there is no metric {metric!r} to count epochs by; {nearest(metric, METRICS)}")
    records = list(records)
    chosen = [one for one in records if one.evaluation.guidance_weight == guidance_weight and one.epoch % 1 == 0]
    if not chosen:
        recorded = sorted({one.evaluation.guidance_weight for one in records})
        raise InputError(f"no epoch was recorded at guidance weight {guidance_weight}; there are {recorded}")
    curve = {round(one.epoch): getattr(one.evaluation, metric) for one in sorted(chosen, key=lambda one: one.epoch)}
    if len(curve) < len(chosen):
        raise InputError("an epoch is recorded twice; take the records of one model, made with one seed")
    return curve


def reached(curve: Curve, bar: Interval) -> Reached:
    """When a curve comes down to a bar. "At or under" includes equality.

    Where there are such epochs, earliest <= first <= latest.

    Args:
        curve: quality by epoch.
        bar: a value with its interval; a bar that is exact has low = value = high.
    """
    epochs = sorted(curve)
    under = [epoch for epoch in epochs if curve[epoch].value <= bar.value]
    above = [epoch for epoch in epochs if curve[epoch].value > bar.value]
    return Reached(
        first=min(under, default=None),
        earliest=min((epoch for epoch in epochs if curve[epoch].low <= bar.high), default=None),
        latest=min((epoch for epoch in epochs if curve[epoch].high <= bar.low), default=None),
        for_good=min((epoch for epoch in under if epoch > max(above, default=-math.inf)), default=None),
    )


def table_1(curves: Mapping[str, Curve], bar: Interval) -> dict[str, Reached]:
    """For each variant, when it reaches the bar."""
    return {name: reached(curve, bar) for name, curve in curves.items()}


def sooner(ours: Reached, theirs: Reached) -> bool | None:
    """Whether the first reached the bar before the second: True or False if the intervals leave no doubt, else None.

    What was never reached counts as later than any epoch.
    """
    ours_earliest, ours_latest, theirs_earliest, theirs_latest = (
        math.inf if epoch is None else epoch for epoch in (ours.earliest, ours.latest, theirs.earliest, theirs.latest)
    )
    if ours_latest < theirs_earliest:
        return True
    return False if theirs_latest <= ours_earliest and theirs_latest < math.inf else None


def to_markdown(table: Mapping[str, Reached]) -> str:
    """The table for a notebook or the README, the report's counts beside ours."""
    rows = [
        "| variant | the report, by eye | first at or under the bar | interval | stays there from |",
        "|---|---|---|---|---|",
    ]
    for name, one in table.items():
        interval = f"{_show(one.earliest)} … {_show(one.latest)}"
        cells = [name, str(REPORT.get(name, "–")), _show(one.first), interval, _show(one.for_good)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _show(epoch: int | None) -> str:
    return "never" if epoch is None else str(epoch)
