"""What came of a sweep: as a table, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ddpm_lib.sweeps.spec import Sweep
from ddpm_lib.sweeps.worker import Outcome, copy_path, read_outcome


def outcomes(sweep: Sweep, folder: Path) -> list[Outcome | None]:
    """The outcome of every run of a sweep, in order; None: not there yet. Raises SweepError for a damaged file."""
    return [read_outcome(folder, run.key) for run in sweep.runs]


def results_table(sweep: Sweep, folder: Path) -> pd.DataFrame:
    """One row a run: all its parameters, what it recorded, and how it went.

    Only runs of this very code and these parameters are in it, whatever else the folder holds.
    """
    rows = []
    for run, outcome in zip(sweep.runs, outcomes(sweep, folder), strict=True):
        row: dict[str, Any] = {"run": run.name} | run.parameters
        if outcome is None:
            row |= {"status": "missing", "error": None, "seconds": None}
        else:
            status = "failed" if outcome.error else "ok"
            row |= outcome.results | {"status": status, "error": outcome.error, "seconds": outcome.seconds}
        rows.append(row)
    return pd.DataFrame(rows)


def result_names(sweep: Sweep, folder: Path) -> list[str]:
    """The names that the runs recorded results under, in the order of their first appearance."""
    names = (name for outcome in outcomes(sweep, folder) if outcome is not None for name in outcome.results)
    return list(dict.fromkeys(names))


def report(sweep: Sweep, folder: Path, lost: Mapping[str, str] | None = None) -> str:
    """How far a sweep is, and every failure with its cell, its error and its copy."""
    lines, counts = [], {"done": 0, "failed": 0, "missing": 0}
    for run, outcome in zip(sweep.runs, outcomes(sweep, folder), strict=True):
        why = (lost or {}).get(run.key)
        if outcome is not None and outcome.error is None:
            counts["done"] += 1
        elif outcome is not None:
            counts["failed"] += 1
            lines.append(f"failed: {run.label}\n  {why or outcome.error}\n  see {copy_path(folder, run)}")
        else:
            counts["missing"] += 1
            lines += [f"lost: {run.label}\n  {why}"] * (why is not None)
    if counts["done"] and not result_names(sweep, folder):
        lines.append("no run recorded a result: a notebook gives results by ddpm_lib.results.record(name=value)")
    state = ", ".join(f"{count} {name}" for name, count in counts.items())
    return "\n".join([*lines, f"{sweep.name}: {len(sweep.runs)} runs: {state}"])
