"""The trained models that come with the course; README.md beside this file says what is shipped.

    model, schedule = pretrained.load("cfg_ema"), pretrained.schedule("cfg_ema")

basic, basic_ema   the report's first variant: no labels; raw and averaged weights
cfg, cfg_ema       its second and third: one conditional run, raw and averaged weights
fast               the best for its time: one-cycle learning rate, a third of their images; averaged weights

Of the conditional run there are also snapshots, from which averages of other lengths are made:
`load("cfg", sigma_rel=0.07)`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_lib.checkpoints import group, load_tensors
from ddpm_lib.config import Config, config_from_dict
from ddpm_lib.errors import InputError, nearest
from ddpm_lib.posthoc import Snapshot, posthoc_weights, power_profile
from ddpm_lib.records import Record, from_strip, read_records, records_name
from ddpm_lib.run_files import frozen_network
from ddpm_lib.schedules import Schedule, make_schedule
from ddpm_lib.unet import UNet

FOLDER = Path(__file__).parent
MODELS = {  # name: (recipe in `config.RECIPES`, weights)
    "basic": ("basic", "raw"),
    "basic_ema": ("basic", "ema"),
    "cfg": ("cfg", "raw"),
    "cfg_ema": ("cfg", "ema"),
    "fast": ("fast", "ema"),
}


def recipe_and_weights(name: str) -> tuple[str, str]:
    """What `MODELS` says of a name. Raises InputError for an unknown one."""
    if name not in MODELS:
        raise InputError(f"there is no model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def epochs(name: str) -> list[int]:
    """The epochs whose weights are shipped, rising. Raises InputError for an unknown name."""
    return sorted(int(path.stem.rpartition("_")[2]) for path in _files(name))


@functools.lru_cache(maxsize=8)
def load(name: str, epoch: int | None = None, sigma_rel: float | None = None) -> UNet:
    """A shipped network in fp32, ready to sample. The same object at each call: it is frozen, do not train it.

    Args:
        name: one of `MODELS`.
        epoch: one of `epochs(name)`; None: the last.
        sigma_rel: instead of the model's own weights, the power-function average of this relative width at the end of
            its run, rebuilt from `snapshots(name)`.

    Raises:
        InputError: there is no such model or epoch, or sigma_rel is outside (0, 0.28].
        CheckpointError: the file is damaged.
    """
    path = _path(name, epoch, sigma_rel)
    tensors, metadata = load_tensors(path)
    if sigma_rel is not None:
        kept = _snapshots(tensors, metadata)
        tensors = posthoc_weights(kept, power_profile(sigma_rel, max(step for _, step in kept)))
    return frozen_network(config_from_dict(metadata["config"]), tensors, path)


def snapshots(name: str) -> dict[Snapshot, dict[str, Tensor]]:
    """The power-function averages shipped of a model's run: (sigma_rel, step) -> weights in half precision.

    For `posthoc.posthoc_weights`. They are fewer than the run kept; its card says what that costs.

    Raises:
        InputError: none are shipped.
        CheckpointError: the file is damaged.
    """
    return _snapshots(*load_tensors(_snapshots_path(name)))


def fingerprint(name: str, epoch: int | None = None, sigma_rel: float | None = None) -> str:
    """The first 16 digits of the SHA-256 of the file that `load` reads. Raises InputError."""
    return hashlib.sha256(_path(name, epoch, sigma_rel).read_bytes()).hexdigest()[:16]


def config(name: str) -> Config:
    """The recipe that a shipped model was trained by. Raises InputError, CheckpointError."""
    return config_from_dict(load_tensors(_path(name, None))[1]["config"])


def schedule(name: str) -> Schedule:
    """The noise schedule that a shipped model was trained with. Raises InputError, CheckpointError."""
    return make_schedule(config(name))


def records(name: str, seed: int = 0) -> list[Record]:
    """The quality of every epoch of a model's run, by epoch and guidance weight. Raises InputError, CheckpointError.

    The samples of other seeds than 0 come from other noise; they are there for some epochs and guidance weights.
    """
    recipe, weights = recipe_and_weights(name)
    return [record for record in read_records(FOLDER / records_file(recipe, seed)) if record.weights == weights]


def samples(name: str, guidance_weight: float = 0.0) -> Tensor:
    """Samples of every recorded epoch, from the same noise.

    Returns:
        `[epochs, 20, 1, 28, 28]`, in the order of `records(name)`; with labels, 0 … 9 twice.

    Raises:
        InputError: an unknown model, or a guidance weight that was not recorded.
    """
    weights = sorted({record.evaluation.guidance_weight for record in records(name)})
    if guidance_weight not in weights:
        raise InputError(f"guidance_weight is {guidance_weight}; samples of {name} are kept for {weights}")
    recipe, kind = recipe_and_weights(name)
    images = from_strip(FOLDER / samples_file(recipe, kind, guidance_weight))
    return images.reshape(-1, 20, 1, 28, 28)


def weights_file(recipe: str, weights: str, epoch: str) -> str:
    """The name of a file of weights; `epoch` in two digits, or a pattern for them."""
    return f"{recipe}_{weights}_epoch_{epoch}.safetensors"


def records_file(recipe: str, seed: int = 0) -> str:
    """The name of the file with the records of a recipe's run."""
    return f"{recipe}_{records_name(seed)}"


def snapshots_file(recipe: str) -> str:
    """The name of the file with the power-function averages of a recipe's run."""
    return f"{recipe}_snapshots.safetensors"


def snapshot_prefix(sigma_rel: float, step: int) -> str:
    """What is put before the names of a snapshot's tensors."""
    return f"power_{sigma_rel:.2f}_step_{step:06d}"


def samples_file(recipe: str, weights: str, guidance_weight: float) -> str:
    """The name of the picture with the samples of all epochs."""
    return f"{recipe}_samples_{weights}_w{guidance_weight:g}.png"


def _files(name: str) -> list[Path]:
    return list(FOLDER.glob(weights_file(*recipe_and_weights(name), "[0-9][0-9]")))


def _snapshots(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> dict[Snapshot, dict[str, Tensor]]:
    return {(width, step): group(snapshot_prefix(width, step), tensors) for width, step in metadata["snapshots"]}


def _snapshots_path(name: str) -> Path:
    path = FOLDER / snapshots_file(recipe_and_weights(name)[0])
    if not path.exists():
        raise InputError(f"{name} has no snapshots to make averages from; of the shipped models, cfg has")
    return path


def _path(name: str, epoch: int | None, sigma_rel: float | None = None) -> Path:
    if sigma_rel is not None:
        if epoch is not None:
            raise InputError(f"sigma_rel makes an average at the end of the run; leave the epoch out, it is {epoch}")
        return _snapshots_path(name)
    shipped = epochs(name)
    if not shipped or (epoch is not None and epoch not in shipped):
        raise InputError(f"{name} has no weights of epoch {epoch}; shipped are {shipped or 'none'}")
    return FOLDER / weights_file(*MODELS[name], f"{shipped[-1] if epoch is None else epoch:02d}")
