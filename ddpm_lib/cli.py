"""The command `ddpm`: thin wrappers; what they call says the rest.

Heavy packages (torch, papermill) are imported inside the commands, so that `ddpm --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from ddpm_lib.course.cli import app as course_app
from ddpm_lib.errors import DDPMError, InputError, NotebookError, nearest
from ddpm_lib.sweeps.cli import app as sweep_app

if TYPE_CHECKING:
    from ddpm_lib.execution import Run
    from ddpm_lib.samplers import SampleStep
    from ddpm_lib.schedules import Schedule
    from ddpm_lib.unet import UNet

WRONG_INPUT, FAILURE, INTERRUPTED = 2, 1, 130  # exit statuses


class _Group(TyperGroup):
    """Turns the library's errors into one line on stderr and an exit status: users need no traceback."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except DDPMError as error:
            typer.echo(f"ddpm: {error}", err=True)
            raise typer.Exit(WRONG_INPUT if isinstance(error, InputError | NotebookError) else FAILURE) from error
        except KeyboardInterrupt:
            typer.echo("\nddpm: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    help="Diffusion models from scratch on Fashion-MNIST: the data, the notebooks run headlessly, trainings.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(course_app, name="course")

app.add_typer(sweep_app, name="sweep")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")]
RunOrModel = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="The folder of a training run, or --model.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="A model of the course: basic, basic_ema, cfg, cfg_ema or fast."),
]
Epoch = Annotated[int | None, typer.Option(help="Which of its epochs.  [default: the last]")]
Weights = Annotated[str, typer.Option(help="Which of a run's weights: raw or ema.")]
GuidanceWeight = Annotated[float, typer.Option(help="w: 0 is the plain conditional model.")]
SamplerName = Annotated[str, typer.Option("--sampler", help="ddpm, ancestral, ddim, dpm_solver or sde_dpm_solver.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same pictures.")]
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
    from ddpm_lib.batch import run_series

    runs = run_series(profile, only or (), _settings(parameter), out, jobs)
    _report(runs, "Open them, or the course itself, in JupyterLab: make lab")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="basic, cfg, fast, or the path of a .yaml file of your own.")],
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run.  [default: runs/train/RECIPE]")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Change a setting of the recipe. Repeatable.")
    ] = None,
    images: Annotated[int | None, typer.Option(metavar="N", help="Train on the first N images only.")] = None,
    use_previous: Annotated[
        bool, typer.Option("--use-previous", help="If the newest checkpoint is damaged, go on from the one before.")
    ] = False,
) -> None:
    """Train a model, or go on where the same command was stopped.

    Saves at each epoch, every ten minutes and on Ctrl-C. Several GPUs: accelerate launch -m ddpm_lib.cli train …
    Several processes on CPUs: torchrun --nproc-per-node 2 -m ddpm_lib.cli train …
    """
    from ddpm_lib.config import RECIPES, config_from_yaml
    from ddpm_lib.data import load_fashion_mnist
    from ddpm_lib.runs import fit

    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml") and recipe not in RECIPES:
        raise InputError(f"there is no recipe {recipe!r}; {nearest(recipe, RECIPES)}; or give the path of a .yaml file")
    config = RECIPES[recipe] if recipe in RECIPES else config_from_yaml(path)
    config = config.replace(**_settings(setting))
    folder = Path("runs/train") / path.stem if folder is None else folder
    fit(config, load_fashion_mnist("train", images), folder, use_previous=use_previous)
    typer.echo(f"trained: {folder}. Look at it: ddpm sample {folder}")


@app.command()
def sample(
    run: RunOrModel = None,
    model: ModelName = None,
    epoch: Epoch = None,
    weights: Weights = "ema",
    n: Annotated[int, typer.Option(help="How many pictures; with labels, the ten classes in turn.")] = 40,
    guidance_weight: GuidanceWeight = 0.0,
    sampler: SamplerName = "dpm_solver",
    steps: Annotated[int | None, typer.Option(help="Network evaluations.  [default: the sampler's]")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture.")] = Path("samples.png"),
) -> None:
    """Sample from a trained model into a PNG."""
    import torch
    from tqdm import tqdm

    from ddpm_lib.files import atomic_write
    from ddpm_lib.plotting import image_grid, to_png
    from ddpm_lib.samplers import sample as draw

    network, schedule = _load(run, model, epoch, weights)
    y = None if network.num_classes is None else torch.arange(n) % network.num_classes
    with tqdm(unit="step") as bar:

        def progress(step: SampleStep) -> None:
            bar.total = step.steps
            bar.update()

        generator = torch.Generator().manual_seed(seed)
        images = draw(network, schedule, n, y, guidance_weight, sampler, steps, generator, progress)
    atomic_write(out, to_png(image_grid(images, columns=10)))
    typer.echo(f"{n} samples in {out}")


@app.command()
def evaluate(
    run: RunOrModel = None,
    model: ModelName = None,
    epoch: Epoch = None,
    weights: Weights = "ema",
    n: Annotated[int, typer.Option(help="How many samples, at least 100.")] = 1000,
    guidance_weight: GuidanceWeight = 0.0,
    sampler: SamplerName = "dpm_solver",
    steps: Annotated[int, typer.Option(help="Network evaluations.")] = 10,
    seed: Seed = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
) -> None:
    """Sample from a trained model and measure the samples: FID, KID, precision, recall, accuracy, as JSON.

    Each value comes with its 95 % interval; the last entry says what real test images score.
    """
    import json

    from tqdm import tqdm

    from ddpm_lib.evaluation import evaluate_model, noise_floor

    network, schedule = _load(run, model, epoch, weights)
    with tqdm(unit="step") as bar:

        def progress(_: SampleStep) -> None:
            bar.update()

        result, _ = evaluate_model(
            network, schedule, n, guidance_weight, sampler, steps, seed, precision, callback=progress
        )
    typer.echo(json.dumps({**result.to_dict(), "noise_floor": noise_floor(n).to_dict()}, indent=1))


@app.command()
def record(
    run: RunFolder,
    epoch: Annotated[
        list[int] | None, typer.Option(help="Only this epoch. Repeatable.  [default: every epoch kept]")
    ] = None,
    n: Annotated[int, typer.Option(help="How many samples an evaluation, at least 100.")] = 1000,
    w: Annotated[
        list[float] | None, typer.Option("--guidance-weight", "-w", help="Only this guidance weight. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise; records of other seeds than 0 have files of their own.")] = 0,
    ship: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="For authors: put the run into ddpm_lib/pretrained as this recipe's."),
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="With --ship: the version that trained it.  [default: HEAD]")
    ] = None,
) -> None:
    """Measure every epoch of a run, raw and averaged, at guidance weights 0, 0.5, 1 and 2.

    Stopped and called again, it goes on. Results: RUN/records.jsonl and RUN/samples.
    """
    from ddpm_lib.records import GUIDANCE_WEIGHTS, record_run, records_name
    from ddpm_lib.shipping import ship as put

    records = record_run(run, epoch or None, w or GUIDANCE_WEIGHTS, n, seed=seed)
    typer.echo(f"{len(records)} records in {run / records_name(seed)}")
    if ship is not None:
        typer.echo(f"{len(put(run, ship, commit))} files written to ddpm_lib/pretrained")


@app.command()
def outputs(only: Only = None) -> None:
    """Run the notebooks and store the outputs in them (for authors).

    Each notebook trains anew what it trains, in a folder that is removed afterwards: its outputs are those of a
    reader's first run. Data and measurements come from the cache. One that fails stays as it is; exit status 1.
    """
    from ddpm_lib.batch import refresh_outputs

    _report(refresh_outputs(only or ()), "The new outputs are stored in the notebooks that ran to their end")


def _load(run: Path | None, model: str | None, epoch: int | None, weights: str) -> tuple[UNet, Schedule]:
    """A shipped network or that of a run's folder, and the schedule it was trained with."""
    from ddpm_lib import pretrained
    from ddpm_lib.records import step_of_epoch
    from ddpm_lib.run_files import load_model, run_config
    from ddpm_lib.schedules import make_schedule

    if (run is None) == (model is None):
        raise InputError("name one model: the folder of a run, or --model with a name of the course's")
    if model is not None:
        return pretrained.load(model, epoch), pretrained.schedule(model)
    step = None if epoch is None else step_of_epoch(run, epoch)
    return load_model(run, step, weights), make_schedule(run_config(run))


def _settings(lines: Sequence[str] | None) -> dict[str, object]:
    """What a repeated `-p name=value` says."""
    from ddpm_lib.batch import parse_values

    return parse_values("-p", lines, "sets nothing")


def _report(runs: Sequence[Run], end: str) -> None:
    from ddpm_lib.batch import summary

    typer.echo(f"\n{summary(runs)}\n{end}")
    if any(run.error for run in runs):
        raise typer.Exit(FAILURE)


if __name__ == "__main__":  # for accelerate launch -m ddpm_lib.cli
    app()
