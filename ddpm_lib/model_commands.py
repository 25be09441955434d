"""The commands on trained models: thin, like all of cli; heavy packages are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_lib.errors import InputError, nearest

if TYPE_CHECKING:
    from ddpm_lib.samplers import SampleStep
    from ddpm_lib.schedules import Schedule
    from ddpm_lib.unet import UNet

app = typer.Typer()  # its commands stand beside those of cli

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
    from ddpm_lib.batch import parse_values
    from ddpm_lib.config import RECIPES, config_from_yaml
    from ddpm_lib.data import load_fashion_mnist
    from ddpm_lib.runs import fit

    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml") and recipe not in RECIPES:
        raise InputError(f"there is no recipe {recipe!r}; {nearest(recipe, RECIPES)}; or give the path of a .yaml file")
    config = RECIPES[recipe] if recipe in RECIPES else config_from_yaml(path)
    config = config.replace(**parse_values("-p", setting, "sets nothing"))
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
