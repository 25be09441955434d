"""What came of a sweep: as a table, as a notebook with plots over what was swept, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ddpm_lib.errors import SweepError
from ddpm_lib.execution import execute
from ddpm_lib.files import atomic_path
from ddpm_lib.sweeps.spec import Sweep
from ddpm_lib.sweeps.worker import Outcome, copy_path, read_outcome

TABLE = "table"
SUMMARY = "summary.ipynb"


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


def write_report(sweep: Sweep, folder: Path) -> list[Path]:
    """Write table.csv, table.parquet and summary.ipynb, each whole; the summary is executed.

    Raises:
        SweepError: a cell of the summary fails; or an outcome's file is damaged.
        DDPMError: the folder cannot be written to.
    """
    folder = folder.absolute()
    table = results_table(sweep, folder)
    paths = [folder / f"{TABLE}.csv", folder / f"{TABLE}.parquet", folder / SUMMARY]
    with atomic_path(paths[0]) as path:
        table.to_csv(path, index=False)
    with atomic_path(paths[1]) as path:
        _uniform(table).to_parquet(path, index=False)
    with atomic_path(paths[2]) as path:
        nbformat.write(summary_notebook(sweep, folder, table), path)
    with atomic_path(paths[2]) as path:
        if error := execute(paths[2], path, {}):
            raise SweepError(f"the summary {paths[2]} failed: {error}")
    return paths


def summary_notebook(sweep: Sweep, folder: Path, table: pd.DataFrame) -> nbformat.NotebookNode:
    """The notebook that shows a sweep's table and plots, not executed. It reads table.parquet beside it."""
    names = result_names(sweep, folder)
    fine = table[table.status == "ok"]
    numeric = [name for name in names if pd.api.types.is_numeric_dtype(fine[name]) and fine[name].dtype != bool]
    fixed = {name: value for name, value in sweep.runs[0].parameters.items() if name not in sweep.swept}
    counts = ", ".join(f"{count} {status}" for status, count in table.status.value_counts().items())
    lines = [f"# Sweep {sweep.name}", "", sweep.about, ""]
    lines += [f"Of `{sweep.notebook.name}`, {len(sweep.runs)} runs: {counts}."]
    lines += [f"Swept: {_code_list(sweep.swept)}. Recorded: {_code_list(names)}."]
    lines += ["", "The same in every run: " + ", ".join(f"`{name} = {value!r}`" for name, value in fixed.items())]
    setup = [
        "import pandas as pd",
        "",
        "from ddpm_lib.plotting import show",
        "from ddpm_lib.sweeps.plots import draw_result",
        "",
        'table = pd.read_parquet("table.parquet")',
        'done = table[table.status == "ok"]',
        f"swept = {sweep.swept!r}",
        f"done[[*swept, *{names!r}, 'seconds']].round(4)",
    ]
    cells = [new_markdown_cell("\n".join(lines)), new_code_cell("\n".join(setup))]
    for name in numeric if sweep.swept else ():
        alt = f"{name} over {' and '.join(sweep.swept)}, as in the table above"
        cells += [
            new_markdown_cell(f"## {name}"),
            new_code_cell(f"show(draw_result(done, {name!r}, swept), alt={alt!r})"),
        ]
    copies = [(run.label, copy_path(folder, run)) for run in sweep.runs]
    links = [f"- [{label}](<{copy.name}>)" for label, copy in copies if copy.exists()]
    cells += [new_markdown_cell("\n".join(["## The executed copies", "", *links]))]
    if len(fine) < len(table):
        cells += [
            new_markdown_cell("## Not done"),
            new_code_cell("table.loc[table.status != 'ok', ['run', 'status', 'error']].style.hide(axis='index')"),
        ]
    for number, cell in enumerate(cells):
        cell["id"] = f"summary-{number}"
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


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


def _uniform(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each, as parquet wants them: a mixed one holds its values as JSON."""
    mixed = [name for name in table if table[name].dtype == object and table[name].dropna().map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(json.dumps) for name in mixed})


def _code_list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
