"""The models of `pretrained` once more, trained and measured on this machine, from nothing: hours on a CPU.

    models = retrained if retrain else pretrained
    model, schedule = models.load("cfg_ema"), models.schedule("cfg_ema")

Same names, same functions. Whoever first asks for a model trains it, in the project's cache; all others, in whichever
notebook, find it done.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lib.config import RECIPES
from ddpm_lib.data import load_fashion_mnist
from ddpm_lib.errors import InputError
from ddpm_lib.posthoc import Snapshot, posthoc_weights, power_profile, power_snapshots
from ddpm_lib.pretrained import recipe_and_weights
from ddpm_lib.records import GUIDANCE_WEIGHTS, Record, from_strip, record_run, step_of_epoch, strip_path
from ddpm_lib.run_files import frozen_network, kept_steps, load_model
from ddpm_lib.runs import fit_cached
from ddpm_lib.schedules import Schedule, make_schedule
from ddpm_lib.training import steps_per_epoch
from ddpm_lib.unet import UNet

OTHER_NOISE = (1.0,)  # guidance weights measured again from other noise: the one of Table 1


@functools.lru_cache
def run(name: str) -> Path:
    """The folder of the training that a model comes from, with the weights of every epoch; trained now if need be.

    Raises:
        InputError: there is no such model.
        Stopped: after Ctrl-C; the same call goes on.
    """
    recipe, _ = recipe_and_weights(name)
    data = load_fashion_mnist("train")
    epoch = steps_per_epoch(len(data.images), RECIPES[recipe].batch_size)
    return fit_cached(RECIPES[recipe], data, keep=range(epoch, round(RECIPES[recipe].epochs) * epoch + 1, epoch))


@functools.lru_cache(maxsize=8)
def load(name: str, epoch: int | None = None, sigma_rel: float | None = None) -> UNet:
    """As `pretrained.load`; every epoch is there. Raises InputError for a model, epoch or width that cannot be."""
    recipe, weights = recipe_and_weights(name)
    folder = run(name)
    if sigma_rel is None:
        return load_model(folder, None if epoch is None else step_of_epoch(folder, epoch), weights)
    if epoch is not None:
        raise InputError(f"sigma_rel makes an average at the end of the run; leave the epoch out, it is {epoch}")
    target = power_profile(sigma_rel, kept_steps(folder)[-1])
    return frozen_network(RECIPES[recipe], posthoc_weights(power_snapshots(folder), target), folder)


def snapshots(name: str) -> dict[Snapshot, dict[str, Tensor]]:
    """As `pretrained.snapshots`: all that the run kept. Raises InputError if its recipe keeps none."""
    return power_snapshots(run(name))


def fingerprint(name: str, epoch: int | None = None, sigma_rel: float | None = None) -> str:
    """The first 16 digits of the SHA-256 of the weights that the run ended with: other runs have others.

    `epoch` and `sigma_rel` may be given as to `pretrained.fingerprint`: they choose among the run's weights.
    """
    folder = run(name)
    last = folder / "weights" / f"step_{kept_steps(folder)[-1]:06d}.safetensors"
    return hashlib.sha256(last.read_bytes()).hexdigest()[:16]


def schedule(name: str) -> Schedule:
    """As `pretrained.schedule`. Raises InputError for an unknown name."""
    return make_schedule(RECIPES[recipe_and_weights(name)[0]])


def records(name: str, seed: int = 0) -> list[Record]:
    """As `pretrained.records`: measures every epoch now, if it was not done; from other noise at w = 1 alone, as there.

    Raises:
        InputError: there is no such model.
    """
    _, weights = recipe_and_weights(name)
    ws = GUIDANCE_WEIGHTS if seed == 0 else OTHER_NOISE
    return [record for record in record_run(run(name), guidance_weights=ws, seed=seed) if record.weights == weights]


def samples(name: str, guidance_weight: float = 0.0) -> Tensor:
    """As `pretrained.samples`: `[epochs, 20, 1, 28, 28]`. Raises InputError for a guidance weight not recorded."""
    chosen = [record for record in records(name) if record.evaluation.guidance_weight == guidance_weight]
    if not chosen:
        raise InputError(f"guidance_weight is {guidance_weight}; it was not recorded for {name}")
    return torch.stack([from_strip(strip_path(run(name), record)) for record in chosen])
