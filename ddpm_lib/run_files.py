"""What the folder of a training run holds, and how it is written and read.

state.safetensors           the newest checkpoint: weights, optimiser, averages, step
state.previous.safetensors  the one before
log.jsonl                   a line a step: step, epoch, loss, lr, images_per_second
weights/step_000468.safetensors   the raw and the averaged weights, at the steps asked for
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lib import __version__
from ddpm_lib.checkpoints import group, load_tensors, load_weights, save_tensors, with_prefix
from ddpm_lib.config import Config, config_from_dict
from ddpm_lib.errors import CheckpointError, InputError, nearest
from ddpm_lib.files import atomic_path
from ddpm_lib.training import POWER_EMA_WIDTHS, StepReport, TrainingState
from ddpm_lib.unet import UNet

STATE = "state.safetensors"
PREVIOUS = "state.previous.safetensors"
LOG = "log.jsonl"


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
    return frozen_network(config, group(weights, tensors), path)


def frozen_network(config: Config, tensors: Mapping[str, Tensor], source: Path) -> UNet:
    """The config's network with these weights, in fp32, ready to sample. Raises CheckpointError if they do not fit."""
    model = UNet(num_classes=10 if config.conditional else None, head_width=config.head_width)
    load_weights(model, tensors, source)
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
