"""The quality of a run, epoch by epoch: each kept set of weights, sampled from the same noise and measured.

records.jsonl                      a line an evaluation
records_seed_1.jsonl               the same from other noise, if asked for
samples/step_004680_ema_w1.png     the first 20 of its samples, two of each class, side by side; of seed 0
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm_lib.checkpoints import read_lines, write_lines
from ddpm_lib.errors import CheckpointError, InputError
from ddpm_lib.evaluation import Evaluation, evaluate_model, evaluation_from_dict
from ddpm_lib.files import atomic_write, locked
from ddpm_lib.plotting import png_bytes, to_pixels
from ddpm_lib.progress import ProgressBar
from ddpm_lib.run_files import kept_steps, load_model, read_log, run_config
from ddpm_lib.schedules import make_schedule

RECORDS = "records.jsonl"
GUIDANCE_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
SHOWN = 20  # samples of each evaluation that are kept as a picture


@dataclass(frozen=True)
class Record:
    """What one set of a run's weights is worth, sampled at one guidance weight."""

    weights: str  # "raw" or "ema"
    step: int
    epoch: float
    loss: float  # of the training: the mean over the steps since the weights kept before
    evaluation: Evaluation


def record_run(
    folder: str | Path,
    epochs: Sequence[int] | None = None,
    guidance_weights: Sequence[float] = GUIDANCE_WEIGHTS,
    n: int = 1000,
    progress: bool = True,
    seed: int = 0,
) -> list[Record]:
    """Evaluates a run's kept weights, raw and averaged, and writes each result as soon as it is there.

    Stopped at any moment, the same call goes on: what is recorded is not computed again. All samples come from the
    same noise, by DPM-Solver++ with ten evaluations.

    Args:
        folder: the run.
        epochs: only these, from 1; None: all that were kept.
        guidance_weights: for a conditional model; an unconditional one is sampled as it is.
        n: samples an evaluation, at least 100.
        progress: show a bar.
        seed: of the noise that all samples come from.

    Returns:
        All records of the run from this noise, in the order of steps, weights and guidance weights.

    Raises:
        CheckpointError: the run kept no weights, or `records.jsonl` is damaged.
        InputError: the run kept no such epoch, or n is too small.
    """
    folder = Path(folder)
    config = run_config(folder)
    losses = mean_losses(folder)
    steps = list(losses) if epochs is None else [_step_of_epoch(folder, losses, epoch) for epoch in epochs]
    schedule = make_schedule(config)
    ws = guidance_weights if config.conditional else (0.0,)
    tasks = [(step, weights, float(w)) for step in steps for weights in ("raw", "ema") for w in ws]
    path = folder / records_name(seed)
    with locked(path):
        records = read_records(path) if path.exists() else []
        done = {(r.step, r.weights, r.evaluation.guidance_weight) for r in records if r.evaluation.n == n}
        for step, weights, w in ProgressBar(
            [task for task in tasks if task not in done], unit="evaluation", disable=not progress
        ):
            model = load_model(folder, step, weights)
            evaluation, images = evaluate_model(model, schedule, n, w, seed=seed)
            record = Record(weights, step, *losses[step], evaluation)
            if seed == 0:
                atomic_write(strip_path(folder, record), to_strip(images[:SHOWN]))
            records = sorted([*records, record], key=_place)
            write_records(path, records)
    return records


def records_name(seed: int = 0) -> str:
    """The file with the records that come from this noise."""
    return RECORDS if seed == 0 else f"records_seed_{seed}.jsonl"


def mean_losses(folder: str | Path) -> dict[int, tuple[float, float]]:
    """For each kept step of a run: its epoch, and the mean training loss since the step kept before."""
    log, means, start = read_log(folder), {}, 0
    for step in kept_steps(folder):
        reports = log[start:step]
        means[step] = (reports[-1].epoch, sum(report.loss for report in reports) / len(reports))
        start = step
    return means


def step_of_epoch(folder: str | Path, epoch: int) -> int:
    """The step at which a run had done `epoch` epochs and kept its weights. Raises InputError if there is none."""
    return _step_of_epoch(folder, mean_losses(folder), epoch)


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Writes records as JSON lines, atomically."""
    write_lines(path, map(asdict, records))


def read_records(path: str | Path) -> list[Record]:
    """Reads what `write_records` wrote. Raises CheckpointError if the file is missing or damaged."""
    if not Path(path).exists():
        raise CheckpointError(f"there are no records {path}; make them: ddpm record RUN")
    return read_lines(path, _record)


def strip_path(folder: Path, record: Record) -> Path:
    """Where the samples of a record are, in its run's folder."""
    name = f"step_{record.step:06d}_{record.weights}_w{record.evaluation.guidance_weight:g}.png"
    return folder / "samples" / name


def to_strip(images: Tensor) -> bytes:
    """`[N, 1, 28, 28]` in [-1, 1] as one PNG, side by side, pixel by pixel."""
    return png_bytes(Image.fromarray(np.hstack(list(to_pixels(images[:, 0]).numpy()))))


def from_strip(path: str | Path) -> Tensor:
    """Reads a picture made of 28x28 images as `[N, 1, 28, 28]` in [-1, 1], row by row."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("L"), dtype=np.float32))
    rows, columns = pixels.shape[0] // 28, pixels.shape[1] // 28
    images = pixels.reshape(rows, 28, columns, 28).permute(0, 2, 1, 3).reshape(-1, 1, 28, 28)
    return images / 127.5 - 1


def _step_of_epoch(folder: str | Path, losses: Mapping[int, tuple[float, float]], epoch: int) -> int:
    steps = {round(done): step for step, (done, _) in losses.items() if done == round(done)}
    if epoch not in steps:
        raise InputError(f"{folder} kept no weights of epoch {epoch}; it has {sorted(steps)}")
    return steps[epoch]


def _place(record: Record) -> tuple[int, str, float, int]:
    return record.step, record.weights, record.evaluation.guidance_weight, record.evaluation.n


def _record(values: dict[str, Any]) -> Record:
    return Record(**{**values, "evaluation": evaluation_from_dict(values["evaluation"])})
