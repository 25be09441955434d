"""Plots of a sweep's table: one result over what was swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_lib.errors import InputError
from ddpm_lib.plotting import COLOURS, LINE_STYLES, new_figure
from ddpm_lib.results import INTERVAL

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES = 7  # of different colours; a parameter with more values is drawn as an axis of its own
LOG_RATIO = 10  # an axis whose largest value is this many times its smallest is logarithmic


def draw_result(table: pd.DataFrame, result: str, swept: Sequence[str]) -> Figure:
    """A recorded number over the swept parameters.

    The number with the most values is the horizontal axis, one of the others tells lines apart, the next one panels;
    over seeds and what is left the mean is drawn, with the standard deviation as bars; where no point is a mean, the
    bars are the interval that the runs recorded beside the result. A parameter that another one
    decides (the steps that go with a sampler) is left out. Where two or more parameters have too many values for
    lines, as after random draws, each gets a panel with one point a run.

    Args:
        table: one row a run, as in a sweep's table.parquet; runs without the result are left out.
        result: the column to draw; `<result>_low` and `<result>_high`, if they are there, are its interval.
        swept: the columns of the swept parameters.

    Raises:
        InputError: there is no run with that result, or nothing was swept.
    """
    if result not in table or not table[result].notna().any() or not swept:
        raise InputError(f"nothing to draw: no run has a result {result!r}, or nothing was swept")
    table = table[table[result].notna()]
    table = table.assign(**{name: table[name].map(str) for name in swept if not _comparable(table, name)})
    swept = _independent(table, swept)
    by_values = sorted(swept, key=lambda name: (_is_numeric(table, name), table[name].nunique()), reverse=True)
    many = [name for name in by_values if table[name].nunique() > MOST_LINES]
    if len(many) > 1:
        figure, axes = new_figure(columns=len(many), width=3.2 * len(many) + 1, height=3.2, sharey=True)
        for ax, name in zip(axes[0], many, strict=True):
            ax.plot(_positions(ax, table, name), table[result], "o", markersize=4)
            ax.set_xlabel(name)
        axes[0, 0].set_ylabel(result)
        return figure
    x, *others = by_values
    lines, panels = (*others[:2], None, None)[:2]
    groups = [(None, table)] if panels is None else list(table.groupby(panels))
    figure, axes = new_figure(columns=len(groups), width=min(14, 3.6 * len(groups) + 3), height=3.4, sharey=True)
    for ax, (value, group) in zip(axes[0], groups, strict=True):
        _draw_lines(ax, group, result, x, lines)
        ax.set_xlabel(x)
        if panels is not None:
            ax.set_title(f"{panels} = {value}")
    axes[0, 0].set_ylabel(result)
    return figure


def _independent(table: pd.DataFrame, swept: Sequence[str]) -> list[str]:
    """The parameters to draw over: they vary, none is decided by another, and seeds are for error bars."""
    kept = [name for name in swept if table[name].nunique() > 1]
    for name in reversed(kept):
        # One that differs in every run decides everything, and says nothing.
        others = [other for other in kept if other != name and table[other].nunique() < len(table)]
        if any(table.groupby(other)[name].nunique().max() == 1 for other in others):
            kept.remove(name)
    return [name for name in kept if name != "seed"] or kept or list(swept[:1])


def _draw_lines(ax: Axes, table: pd.DataFrame, result: str, x: str, lines: str | None) -> None:
    for index, (value, group) in enumerate([(None, table)] if lines is None else table.groupby(lines)):
        group = group.assign(**{"the position": _positions(ax, group, x, table)})
        points = group.groupby("the position")[result].agg(["mean", "std"])
        bars = _bars(group, result, points)
        style = LINE_STYLES[index % len(LINE_STYLES)] if _is_numeric(table, x) else ""
        label = None if lines is None else f"{lines} = {value}"
        colour = COLOURS[index % len(COLOURS)]
        ax.errorbar(points.index, points["mean"], bars, fmt=f"o{style}", color=colour, capsize=3, label=label)
    if lines is not None:
        ax.legend(frameon=False, fontsize=8)


def _bars(group: pd.DataFrame, result: str, points: pd.DataFrame) -> pd.Series | np.ndarray | None:
    """How far to draw each point's bars: both ways alike, or down and up; None: there is nothing to draw them by."""
    if points["std"].notna().any():
        return points["std"].fillna(0)
    if not {f"{result}{end}" for end in INTERVAL} <= set(group):
        return None
    low, high = (group.groupby("the position")[f"{result}{end}"].mean() for end in INTERVAL)
    return np.maximum(0, [points["mean"] - low, high - points["mean"]])  # matplotlib refuses bars below 0


def _positions(ax: Axes, rows: pd.DataFrame, name: str, table: pd.DataFrame | None = None) -> np.ndarray:
    """Where the rows' values of a parameter are on the axis, which is set up for all values in `table`."""
    values = (rows if table is None else table)[name]
    if not _is_numeric(rows, name):
        names = sorted(map(str, values.unique()))
        ax.set_xticks(range(len(names)), names)
        return rows[name].map(lambda value: names.index(str(value))).to_numpy()
    if values.min() > 0 and values.max() / values.min() >= LOG_RATIO:
        ax.set_xscale("log")
    return rows[name].to_numpy(dtype=float)


def _comparable(table: pd.DataFrame, name: str) -> bool:
    """Whether values can be told apart and sorted as they are: no lists, and none that is missing."""
    return not table[name].map(lambda value: isinstance(value, list | np.ndarray)).any() and table[name].notna().all()


def _is_numeric(table: pd.DataFrame, name: str) -> bool:
    return table[name].dtype != bool and np.issubdtype(np.asarray(table[name].tolist()).dtype, np.number)
