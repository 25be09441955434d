"""The command `ddpm`: thin wrappers; what they call says the rest. Those on trained models: see model_commands.

Heavy packages (torch, papermill) are imported inside the commands, so that `ddpm --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from ddpm_lib.course.cli import app as course_app
from ddpm_lib.errors import DDPMError, InputError, NotebookError
from ddpm_lib.model_commands import app as model_app
from ddpm_lib.sweeps.cli import app as sweep_app

if TYPE_CHECKING:
    from ddpm_lib.execution import Run

WRONG_INPUT, FAILURE, INTERRUPTED = 2, 1, 130  # exit statuses


class _Group(TyperGroup):
    """Turns the library's errors into one line on stderr and an exit status: users need no traceback."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except DDPMError as error:
            typer.echo(f"ddpm: {error}", err=True)
            raise typer.Exit(WRONG_INPUT if isinstance(error, InputError | NotebookError) else FAILURE) from error
        except KeyboardInterrupt as stop:  # a training's says what is saved
            typer.echo(f"\nddpm: {str(stop) or 'interrupted'}", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    help="Diffusion models from scratch on Fashion-MNIST: the data, the notebooks run headlessly, trainings.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(model_app)
app.add_typer(course_app, name="course")
app.add_typer(sweep_app, name="sweep")

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="Only this notebook: 04, or its full name. Repeatable."),
]


@app.command()
def data() -> None:
    """Fetch Fashion-MNIST if need be and verify it."""
    from ddpm_lib.data import SPLITS
    from ddpm_lib.data_files import find_fashion_mnist

    folder = find_fashion_mnist()
    counts = ", ".join(f"{count:,} {split} images" for split, (_, _, count) in SPLITS.items())
    typer.echo(f"Fashion-MNIST is in {folder}: {counts}, checksums verified")


@app.command()
def run(
    profile: Annotated[
        str, typer.Option(help="smoke, laptop, full, or the path of a .yaml file of your own.")
    ] = "laptop",
    only: Only = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter wherever it is declared. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the executed copies.  [default: runs/PROFILE]")
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Notebooks side by side; they share the cores.")] = 1,
) -> None:
    """Execute the course's notebooks headlessly.

    Each has its own kernel; the originals stay as they are, the executed copies are kept. Everything is
    checked before anything runs. Exit status 1: a cell failed; 2: wrong input, nothing ran.
    """
    from ddpm_lib.batch import parse_values, run_series

    runs = run_series(profile, only or (), parse_values("-p", parameter, "sets nothing"), out, jobs)
    _report(runs, "Open them, or the course itself, in JupyterLab: make lab")


@app.command()
def outputs(only: Only = None) -> None:
    """Run the notebooks and store the outputs in them (for authors).

    Each notebook trains anew what it trains, in a folder that is removed afterwards: its outputs are those of a
    reader's first run. Data and measurements come from the cache. One that fails stays as it is; exit status 1.
    """
    from ddpm_lib.batch import refresh_outputs

    _report(refresh_outputs(only or ()), "The new outputs are stored in the notebooks that ran to their end")


def _report(runs: Sequence[Run], end: str) -> None:
    from ddpm_lib.batch import summary

    typer.echo(f"\n{summary(runs)}\n{end}")
    if any(run.error for run in runs):
        raise typer.Exit(FAILURE)


if __name__ == "__main__":  # for accelerate launch -m ddpm_lib.cli
    app()
