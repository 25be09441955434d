"""The commands `ddpm sweep …`: thin, like all of cli; heavy packages are imported inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ddpm_lib.errors import InputError

if TYPE_CHECKING:
    from ddpm_lib.sweeps.spec import SweepRun

FAILURE = 1  # the exit status where a run failed


class _RunByDefault(TyperGroup):
    """`ddpm sweep FILE` is short for `ddpm sweep run FILE`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    help="Run a notebook over many parameters: ddpm sweep FILE. Killed at any moment, the same command goes on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .yaml file; ready ones: notebooks/sweeps.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The sweep's folder.  [default: runs/sweeps/NAME]")]


@app.command()
def run(
    file: SweepFile,
    out: Out = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME=VALUE", help="Only runs with this value of a parameter. Repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N of the missing runs.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster, as in tcp://host:8786.  [default: one here]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Notebooks at a time.  [default: by cores and memory]")
    ] = None,
    dashboard: Annotated[bool, typer.Option(help="Serve Dask's dashboard.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and how long.")] = False,
) -> None:
    """Do the runs of a sweep that are not done yet, then write its table and summary.

    Everything is checked before anything runs. Exit status 1: a run failed; 2: wrong input, nothing ran.
    """
    from ddpm_lib.batch import RUNS
    from ddpm_lib.sweeps.runner import missing, run_sweep
    from ddpm_lib.sweeps.spec import chosen_runs, load_sweep

    if scheduler is not None and workers is not None:
        raise InputError("--workers is for a cluster started here; the one at --scheduler has its own")
    sweep = load_sweep(file)
    folder = out or RUNS / "sweeps" / sweep.name
    runs = missing(folder, chosen_runs(sweep, _values(only)))[:limit]
    if dry_run:
        typer.echo(_plan(runs, len(sweep.runs), folder, workers, sweep.limits.memory_gb))
        return

    from ddpm_lib.sweeps.report import report
    from ddpm_lib.sweeps.summary import write_report

    lost: dict[str, str] = {}
    try:
        lost = run_sweep(sweep, folder, runs, scheduler, workers, dashboard)
    finally:
        typer.echo(f"\n{report(sweep, folder, lost)}")
    table, *_, summary = write_report(sweep, folder)
    typer.echo(f"The table is {table}, the summary {summary}")
    if lost or missing(folder, runs):
        raise typer.Exit(FAILURE)


@app.command()
def status(file: SweepFile, out: Out = None) -> None:
    """Say how far a sweep is, and what failed."""
    from ddpm_lib.batch import RUNS
    from ddpm_lib.sweeps.report import report
    from ddpm_lib.sweeps.spec import load_sweep

    sweep = load_sweep(file)
    typer.echo(report(sweep, out or RUNS / "sweeps" / sweep.name))


@app.command()
def store(file: SweepFile, out: Out = None) -> None:
    """Store the summary of a sweep that is done beside FILE, to commit it: NAME.ipynb, and its table as NAME.csv."""
    from ddpm_lib.batch import RUNS
    from ddpm_lib.sweeps.spec import load_sweep
    from ddpm_lib.sweeps.summary import store_summary

    sweep = load_sweep(file)
    notebook, table = store_summary(sweep, out or RUNS / "sweeps" / sweep.name, file)
    typer.echo(f"The summary is {notebook}, its table {table}")


def _plan(runs: Sequence[SweepRun], total: int, folder: Path, workers: int | None, memory_gb: float | None) -> str:
    from ddpm_lib.sweeps.cluster import worker_count
    from ddpm_lib.sweeps.runner import estimate_seconds

    count = min(workers or worker_count(memory_gb), max(1, len(runs)))
    seconds = estimate_seconds(folder, len(runs), count)
    time = "no earlier run to estimate the time from" if seconds is None else f"about {seconds / 60:.1f} minutes"
    head = f"{len(runs)} of {total} runs would be done, {count} at a time: {time}"
    return "\n".join([*(f"  {run.label}" for run in runs), head])


def _values(lines: Sequence[str] | None) -> dict[str, Any]:
    from ddpm_lib.batch import parse_values

    return parse_values("--only", lines, "names no value")
