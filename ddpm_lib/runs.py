"""A training run in a folder: checkpoints, a log, kept weights; stopped and resumed without a trace.

state.safetensors           the newest checkpoint: weights, optimiser, averages, step
state.previous.safetensors  the one before
log.jsonl                   a line a step: step, epoch, loss, lr, images_per_second
weights/step_000468.safetensors   the raw and the averaged weights, at the steps asked for
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import getsource
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_lib import __version__
from ddpm_lib.checkpoints import group, load_tensors, load_weights, save_tensors, with_prefix
from ddpm_lib.config import Config, config_from_dict
from ddpm_lib.data import Split
from ddpm_lib.errors import CheckpointError, InputError, nearest
from ddpm_lib.files import atomic_path, atomic_write, cache_dir, locked
from ddpm_lib.training import POWER_EMA_WIDTHS, StepReport, TrainingState, new_state, steps_per_epoch, train
from ddpm_lib.unet import UNet

STATE = "state.safetensors"
PREVIOUS = "state.previous.safetensors"
LOG = "log.jsonl"


def fit(
    config: Config,
    data: Split,
    folder: str | Path,
    keep: Iterable[int] | None = None,
    minutes: float = 10.0,
    use_previous: bool = False,
    progress: bool = True,
) -> Path:
    """Trains a config to its end in `folder`, or goes on where an earlier call was stopped.

    A checkpoint is written at each epoch, every `minutes`, on Ctrl-C and at the end. Going on gives, on a CPU, the same
    bits as never having stopped.

    Args:
        config: the run; a folder belongs to one config for ever.
        data: the training images.
        folder: made if it is not there.
        keep: steps (from 1) at which the weights are kept; None: at the end of each epoch. The last step always is.
        minutes: the longest time between two checkpoints.
        use_previous: if the newest checkpoint is damaged, go on from the one before.
        progress: show a bar with loss and images a second.

    Returns:
        The folder.

    Raises:
        CheckpointError: the checkpoint is damaged (unless `use_previous`) or belongs to another config.
        ConfigError: the batch size does not fit the images.
        InputError: a step to keep is not one of the run's.
        TrainingError: the loss is not finite; the last checkpoint stays.
        KeyboardInterrupt: after Ctrl-C, once the step is done and saved.
    """
    folder = Path(folder)
    state = new_state(config, len(data.images))
    if (folder / STATE).exists() or (folder / PREVIOUS).exists():
        resume(state, folder, use_previous)
    per_epoch = steps_per_epoch(len(data.images), config.batch_size)
    kept = set(range(per_epoch, state.total_steps, per_epoch) if keep is None else keep) | {state.total_steps}
    if outside := sorted(step for step in kept if not 1 <= step <= state.total_steps):
        raise InputError(f"keep asks for step {outside[0]}; the run has the steps 1 … {state.total_steps}")
    main = state.accelerator.is_main_process
    if main:
        for left_over in folder.rglob(".*.tmp"):  # by a kill in the middle of a write
            shutil.rmtree(left_over, ignore_errors=True)
    lines = _read_lines(folder, state.step)
    saved_at = time.monotonic()
    with (
        _stop_request() as stop,
        tqdm(total=state.total_steps, initial=state.step, unit="step", disable=not (progress and main)) as bar,
    ):
        if main and progress and state.step < state.total_steps:
            bar.write(
                f"training on {state.accelerator.device} in {state.accelerator.mixed_precision.replace('no', 'fp32')}"
            )
        for report in train(state, data):
            lines.append(json.dumps(vars(report)))
            bar.update()
            bar.set_postfix(loss=f"{report.loss:.3f}", images_per_s=f"{report.images_per_second:.0f}", refresh=False)
            due = state.step % per_epoch == 0 or time.monotonic() - saved_at > 60 * minutes
            if main and state.step in kept:
                save_kept_weights(state, folder)
            if main and (due or stop.is_set() or state.step == state.total_steps):
                atomic_write(folder / LOG, ("\n".join(lines) + "\n").encode())
                save_state(state, folder)
                saved_at = time.monotonic()
            if stop.is_set():
                raise KeyboardInterrupt(f"stopped at step {state.step}; the same call goes on from there")
    state.accelerator.wait_for_everyone()
    return folder


def save_state(state: TrainingState, folder: Path) -> None:
    """Writes the newest checkpoint; the one before stays beside it. A kill at any moment leaves a whole one."""
    tensors = _all_weights(state)
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= with_prefix(f"optimizer.{index}", values)
    scaler = state.accelerator.scaler
    metadata = {
        "kind": "training state",
        "config": state.config.to_dict(),
        "step": state.step,
        "total_steps": state.total_steps,
        "scaler": None if scaler is None else scaler.state_dict(),
        "version": __version__,
    }
    if (folder / STATE).exists():
        _duplicate(folder / STATE, folder / PREVIOUS)
    save_tensors(folder / STATE, tensors, metadata)


def resume(state: TrainingState, folder: Path, use_previous: bool = False) -> None:
    """Brings a new state to where the checkpoint in `folder` was.

    Raises:
        CheckpointError: the checkpoint is damaged (and `use_previous` was not given, or that one is damaged too), or
            it belongs to another config.
    """
    source = folder / STATE
    try:
        tensors, metadata = load_tensors(source)
    except CheckpointError as error:
        if not (folder / PREVIOUS).exists():
            raise
        if not use_previous:
            raise CheckpointError(f"{error}. To go on from the checkpoint before, pass use_previous") from error
        source = folder / PREVIOUS
        tensors, metadata = load_tensors(source)
    if metadata.get("kind") != "training state":
        raise CheckpointError(f"{source} holds weights, not a training state; train in another folder")
    ours = {**state.config.to_dict(), "total_steps": state.total_steps}
    theirs = {**metadata["config"], "total_steps": metadata["total_steps"]}
    if differing := [
        f"{name} {theirs.get(name)} (asked for: {ours[name]})" for name in ours if theirs.get(name) != ours[name]
    ]:
        raise CheckpointError(
            f"{folder} belongs to another run: it has {', '.join(differing)}; take another folder or the same settings"
        )
    load_weights(state.raw_model, group("raw", tensors), source)
    for name, average in state.averages.items():
        load_weights(average.model, group(name, tensors), source)
    _load_optimizer(state, tensors)
    if state.accelerator.scaler is not None and metadata["scaler"] is not None:
        state.accelerator.scaler.load_state_dict(metadata["scaler"])
    state.step = metadata["step"]
    if source.name == PREVIOUS and state.accelerator.is_main_process:
        _duplicate(source, folder / STATE)  # or the next save would put the damaged file in the good one's place


def _duplicate(path: Path, other: Path) -> None:
    """Makes `other` the same file as `path`, in one step."""
    with atomic_path(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # some network and USB disks have no hard links
            shutil.copyfile(path, temporary)


def _load_optimizer(state: TrainingState, tensors: dict[str, Tensor]) -> None:
    saved = state.optimizer.state_dict()
    parameters = [p for param_group in state.optimizer.param_groups for p in param_group["params"]]
    for index, parameter in enumerate(parameters):
        values = group(f"optimizer.{index}", tensors)
        for name, value in values.items():
            if (
                value.shape == parameter.shape
            ):  # in the parameter's own layout: the fused step walks both in memory order
                values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        if values:
            saved["state"][index] = values
    state.optimizer.load_state_dict(saved)


def save_kept_weights(state: TrainingState, folder: Path) -> None:
    """Writes the raw weights and every average of this step to `weights/`."""
    tensors = _all_weights(state)
    metadata = {
        "kind": "weights",
        "config": state.config.to_dict(),
        "step": state.step,
        "version": __version__,
    }
    save_tensors(folder / "weights" / f"step_{state.step:06d}.safetensors", tensors, metadata)


def _all_weights(state: TrainingState) -> dict[str, Tensor]:
    """The raw weights and every average, as "raw.…", "ema.…"."""
    tensors = with_prefix("raw", state.raw_model.state_dict())
    for name, average in state.averages.items():
        tensors |= with_prefix(name, average.model.state_dict())
    return tensors


def kept_steps(folder: str | Path) -> list[int]:
    """The steps whose weights a run kept, rising."""
    return sorted(
        int(path.stem.removeprefix("step_")) for path in (Path(folder) / "weights").glob("step_*.safetensors")
    )


def load_model(folder: str | Path, step: int | None = None, weights: str = "ema") -> UNet:
    """A network with the weights that a run kept, in fp32, ready to sample.

    Args:
        folder: the run.
        step: one of `kept_steps`; None: the last.
        weights: "raw", "ema", or a power-function average's name.

    Raises:
        CheckpointError: the run kept no such step or the file is damaged.
        InputError: there are no weights of that name.
    """
    steps = kept_steps(folder)
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(f"{folder} kept no weights of step {step}; it has {steps or 'none at all'}")
    path = Path(folder) / "weights" / f"step_{steps[-1] if step is None else step:06d}.safetensors"
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != "weights":
        raise CheckpointError(f"{path} does not hold a run's kept weights; it was put there by hand")
    config = config_from_dict(metadata["config"])
    names = ["raw", "ema", *(f"power_{width:.2f}" for width in POWER_EMA_WIDTHS if config.power_emas)]
    if weights not in names:
        raise InputError(f"{path} has no weights {weights!r}; {nearest(weights, names)}")
    model = UNet(num_classes=10 if config.conditional else None, head_width=config.head_width)
    load_weights(model, group(weights, tensors), path)
    return model.eval().requires_grad_(False)


def run_config(folder: str | Path) -> Config:
    """The config of a run that has kept weights. Raises CheckpointError if it has not, or its file is damaged."""
    steps = kept_steps(folder)
    if not steps:
        raise CheckpointError(f"{folder} kept no weights; is it the folder of a training run?")
    return config_from_dict(load_tensors(Path(folder) / "weights" / f"step_{steps[-1]:06d}.safetensors")[1]["config"])


def read_log(folder: str | Path) -> list[StepReport]:
    """The reports of all steps that a run has saved, in order.

    Raises:
        CheckpointError: the folder holds no log.
    """
    if not (Path(folder) / LOG).is_file():
        raise CheckpointError(f"there is no {LOG} in {folder}; is it a run that has saved at least once?")
    return [StepReport(**json.loads(line)) for line in (Path(folder) / LOG).read_text().splitlines()]


def fit_cached(config: Config, data: Split, keep: Iterable[int] = (), progress: bool = True) -> Path:
    """`fit` in the project's cache: the first caller trains, every later one finds the run done.

    A run is known by its content: the config, the steps kept, the number of images, and the code that trains. Two
    notebooks that ask at once wait for one training.

    Returns:
        The run's folder, complete.
    """
    keep = sorted(set(keep))
    identity = json.dumps([config.key(), keep, len(data.images), training_code_hash()])
    folder = cache_dir() / "trainings" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    with locked(folder):
        if not (folder / "done.json").exists():
            fit(config, data, folder, keep, progress=progress)
            atomic_write(folder / "done.json", json.dumps(config.to_dict(), indent=1).encode())
    return folder


def short_training(data: Split, steps: int, conditional: bool = False, progress: bool = True, T: int = 1000) -> Path:
    """The few minutes of training that notebooks share while no long run is at hand: half-trained, and meant to be.

    Not the report's recipe, but what shows most in a few minutes: small batches, so that the same number of images
    makes four times as many steps, and a learning rate that rises to 2e-3 and falls to nothing. Cached (see
    `fit_cached`).

    Args:
        data: the training images.
        steps: how many training steps, of 32 images; the weights are kept at eight moments on the way.
        conditional: with labels, dropped with probability 0.1, for guidance.
        progress: show a bar.
        T: how many timesteps; fewer than 1000 only to try a notebook out.

    Returns:
        The run's folder, complete.
    """
    config = Config(
        T=T,
        conditional=conditional,
        epochs=steps / steps_per_epoch(len(data.images), 32),
        batch_size=32,
        lr=2e-3,
        lr_schedule="one_cycle",
        ema_beta=0.99,
        ema_start=steps // 4,
    )
    return fit_cached(config, data, {max(1, steps * eighth // 8) for eighth in range(1, 9)}, progress)


def training_code_hash() -> str:
    """A hash of the code that decides what a training computes; comments and formatting do not count."""
    modules = ("schedules", "embedding", "unet", "diffusion", "guidance", "ema", "training")
    sources = [getsource(import_module(f"ddpm_lib.{name}")) for name in modules]
    return hashlib.sha256("".join(ast.dump(ast.parse(source)) for source in sources).encode()).hexdigest()[:16]


def _read_lines(folder: Path, step: int) -> list[str]:
    """The log's lines up to a step: what was logged after the checkpoint is done again."""
    path = folder / LOG
    return path.read_text().splitlines()[:step] if path.exists() else []


@contextmanager
def _stop_request() -> Iterator[threading.Event]:
    """Turns Ctrl-C into a request, so that it never falls into the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(*_: Any) -> None:
        stop.set()

    before = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
