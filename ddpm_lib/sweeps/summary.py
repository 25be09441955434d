"""What came of a sweep, as a notebook with its table and plots: in the sweep's folder, or stored beside its file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ddpm_lib.errors import InputError, SweepError
from ddpm_lib.execution import execute
from ddpm_lib.files import atomic_path, atomic_write
from ddpm_lib.results import INTERVAL
from ddpm_lib.stored import normalised
from ddpm_lib.sweeps.report import outcomes, result_names, results_table
from ddpm_lib.sweeps.spec import Sweep
from ddpm_lib.sweeps.worker import copy_path

TABLE = "table"
SUMMARY = "summary.ipynb"
CELL = "summary-{}"  # the ids of its cells


def write_report(sweep: Sweep, folder: Path) -> list[Path]:
    """Write table.csv, table.parquet and summary.ipynb into the sweep's folder, each whole; the summary is executed.

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
    links = [f"- [{run.label}](<{run.name}.ipynb>)" for run in sweep.runs if copy_path(folder, run).exists()]
    copies = new_markdown_cell("\n".join(["## The executed copies", "", *links]))
    with atomic_path(paths[2]) as path:
        nbformat.write(summary_notebook(sweep, folder, table, f'read_parquet("{paths[1].name}")', copies), path)
    with atomic_path(paths[2]) as path:
        _execute(paths[2], path)
    return paths


def store_summary(sweep: Sweep, folder: Path, file: Path) -> list[Path]:
    """Write the summary of a sweep whose runs are all done beside its file: NAME.ipynb, and its table as NAME.csv.

    They need nothing else: the form to commit, or to pass on. Unless the summary runs to its end, nothing is written.

    Args:
        sweep: from `load_sweep(file)`.
        folder: the sweep's, with the outcomes.
        file: the sweep's YAML file.

    Raises:
        InputError: a run is missing or failed; or a file of that name is there and is no stored summary.
        SweepError: a cell of the summary fails; or an outcome's file is damaged.
        DDPMError: the folder of `file` cannot be written to.
    """
    undone = sum(outcome is None or outcome.error is not None for outcome in outcomes(sweep, folder))
    if undone:
        state = f"{undone} of the {len(sweep.runs)} runs of {sweep.name} are not done"
        raise InputError(f"{state}, and the summary is stored when all are: ddpm sweep {file}")
    notebook, csv = file.absolute().with_suffix(".ipynb"), file.absolute().with_suffix(".csv")
    for path in (notebook, csv):
        if path.exists() and not is_stored_summary(notebook):
            raise InputError(f"{path} is there and is not from a stored summary; rename it or {file.name}")
    table = results_table(sweep, folder)
    with tempfile.TemporaryDirectory() as place:
        table.to_csv(Path(place, csv.name), index=False)
        draft, executed = Path(place, "draft.ipynb"), Path(place, notebook.name)
        nbformat.write(summary_notebook(sweep, folder, table, f'read_csv("{csv.name}")'), draft)
        _execute(draft, executed)
        atomic_write(csv, Path(place, csv.name).read_bytes())
        with atomic_path(notebook) as path:
            nbformat.write(normalised(nbformat.read(executed, as_version=4)), path)
    return [notebook, csv]


def is_stored_summary(path: Path) -> bool:
    """Whether a notebook is a summary, to be replaced by a newer one; False if there is none."""
    try:
        return nbformat.read(path, as_version=4).cells[0].get("id") == CELL.format(0)
    except Exception:  # nbformat lets through whatever JSON, its validator and the file system raise
        return False


def _execute(notebook: Path, copy: Path) -> None:
    if error := execute(notebook, copy, {}):
        raise SweepError(f"the summary {notebook} failed: {error}")


def summary_notebook(sweep: Sweep, folder: Path, table: pd.DataFrame, read: str, *last: NotebookNode) -> NotebookNode:
    """The notebook that shows a sweep's table and plots, not executed.

    Args:
        sweep, folder, table: whose, where its outcomes are, and what came of it.
        read: how pandas is to read the table that lies beside the notebook.
        last: further cells.
    """
    names = result_names(sweep, folder)
    setup = [
        "import pandas as pd",
        "",
        "from ddpm_lib.plotting import show",
        "from ddpm_lib.sweeps.plots import draw_result",
        "",
        f"table = pd.{read}",
        'done = table[table.status == "ok"]',
        f"swept = {json.dumps(sweep.swept)}",
        f"results = {json.dumps(names)}",
        'done[[*swept, *results, "seconds"]].round(4)',
    ]
    cells = [new_markdown_cell(_about(sweep, table, names)), new_code_cell("\n".join(setup))]
    for name in _drawn(table, names) if sweep.swept else ():
        alt = json.dumps(f"{name} over {' and '.join(sweep.swept)}, as in the table above")
        source = f"figure = draw_result(done, {json.dumps(name)}, swept)\nshow(figure, alt={alt})"
        cells += [new_markdown_cell(f"## {name}"), new_code_cell(source)]
    if (table.status != "ok").any():
        shown = 'table.loc[table.status != "ok", ["run", "status", "error"]].style.hide(axis="index")'
        cells += [new_markdown_cell("## Not done"), new_code_cell(shown)]
    cells += [new_markdown_cell(_how(sweep, folder)), *last]
    for number, cell in enumerate(cells):
        cell["id"] = CELL.format(number)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _drawn(table: pd.DataFrame, names: list[str]) -> list[str]:
    """The results that are numbers; the ends of an interval are drawn with what they are the interval of."""
    fine = table[table.status == "ok"]
    known = [name for name in names if fine[name].notna().any()]  # no accuracy without labels, no loss that diverged
    numeric = [name for name in known if pd.api.types.is_numeric_dtype(fine[name]) and fine[name].dtype != bool]
    ends = {f"{name}{end}" for name in numeric for end in INTERVAL}
    return [name for name in numeric if name not in ends]


def _about(sweep: Sweep, table: pd.DataFrame, names: list[str]) -> str:
    fixed = {name: value for name, value in sweep.runs[0].parameters.items() if name not in sweep.swept}
    counts = ", ".join(f"{count} {status}" for status, count in table.status.value_counts().items())
    lines = [f"# Sweep {sweep.name}", "", sweep.about, ""]
    lines += [f"Of `{sweep.notebook.name}`, {len(sweep.runs)} runs: {counts}."]
    lines += [f"Swept: {_code_list(sweep.swept)}. Recorded: {_code_list(names)}."]
    lines += ["", "The same in every run: " + ", ".join(f"`{name} = {value!r}`" for name, value in fixed.items())]
    return "\n".join(lines)


def _how(sweep: Sweep, folder: Path) -> str:
    """Which code made it, where, in which time, and how to make it again."""
    done = [outcome for outcome in outcomes(sweep, folder) if outcome is not None]
    machines = sorted({f"{outcome.processor} with Python {outcome.python}" for outcome in done})
    seconds = [outcome.seconds for outcome in done] or [0.0]
    lines = ["## How it was made", ""]
    lines += [
        f"By code of hash `{sweep.code[:16]}` (the notebook's cells, and the library's modules that they import),"
    ]
    lines += [f"on {', '.join(machines) or 'no machine yet'}."]
    lines += [
        f"The runs took {min(seconds):.0f} to {max(seconds):.0f} s each, {sum(seconds) / 60:.1f} minutes together."
    ]
    lines += ["", f"To make it again: `ddpm sweep {sweep.name}.yaml`, then `ddpm sweep store {sweep.name}.yaml`."]
    return "\n".join(lines)


def _uniform(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each, as parquet wants them: a mixed one holds its values as JSON."""
    mixed = [name for name in table if table[name].dtype == object and table[name].dropna().map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(json.dumps) for name in mixed})


def _code_list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
