"""The trained models that come with the course; README.md beside this file says what is shipped.

    model, schedule = pretrained.load("cfg_ema"), pretrained.schedule("cfg_ema")

basic, basic_ema   the report's first variant: no labels; raw and averaged weights
cfg, cfg_ema       its second and third: one conditional run, raw and averaged weights
fast               the best for its time: one-cycle learning rate, averaged weights; what the sliders use
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from torch import Tensor

from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.config import Config, config_from_dict
from ddpm_lib.errors import InputError, nearest
from ddpm_lib.records import Record, from_strip, read_records
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


def epochs(name: str) -> list[int]:
    """The epochs whose weights are shipped, rising. Raises InputError for an unknown name."""
    return sorted(int(path.stem.rpartition("_")[2]) for path in _files(name))


@functools.lru_cache(maxsize=8)
def load(name: str, epoch: int | None = None) -> UNet:
    """A shipped network in fp32, ready to sample. The same object at each call: it is frozen, do not train it.

    Args:
        name: one of `MODELS`.
        epoch: one of `epochs(name)`; None: the last.

    Raises:
        InputError: there is no such model or epoch.
        CheckpointError: the file is damaged.
    """
    path = _path(name, epoch)
    tensors, metadata = load_tensors(path)
    return frozen_network(config_from_dict(metadata["config"]), tensors, path)


def fingerprint(name: str, epoch: int | None = None) -> str:
    """The first 16 digits of the SHA-256 of a model's file. Raises InputError."""
    return hashlib.sha256(_path(name, epoch).read_bytes()).hexdigest()[:16]


def config(name: str) -> Config:
    """The recipe that a shipped model was trained by. Raises InputError, CheckpointError."""
    return config_from_dict(load_tensors(_path(name, None))[1]["config"])


def schedule(name: str) -> Schedule:
    """The noise schedule that a shipped model was trained with. Raises InputError, CheckpointError."""
    return make_schedule(config(name))


def records(name: str) -> list[Record]:
    """The quality of every epoch of a model's run, by epoch and guidance weight. Raises InputError, CheckpointError."""
    recipe, weights = _model(name)
    return [record for record in read_records(FOLDER / records_file(recipe)) if record.weights == weights]


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
    recipe, kind = _model(name)
    images = from_strip(FOLDER / samples_file(recipe, kind, guidance_weight))
    return images.reshape(-1, 20, 1, 28, 28)


def weights_file(recipe: str, weights: str, epoch: str) -> str:
    """The name of a file of weights; `epoch` in two digits, or a pattern for them."""
    return f"{recipe}_{weights}_epoch_{epoch}.safetensors"


def records_file(recipe: str) -> str:
    """The name of the file with the records of a recipe's run."""
    return f"{recipe}_records.jsonl"


def samples_file(recipe: str, weights: str, guidance_weight: float) -> str:
    """The name of the picture with the samples of all epochs."""
    return f"{recipe}_samples_{weights}_w{guidance_weight:g}.png"


def _model(name: str) -> tuple[str, str]:
    if name not in MODELS:
        raise InputError(f"there is no model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def _files(name: str) -> list[Path]:
    return list(FOLDER.glob(weights_file(*_model(name), "[0-9][0-9]")))


def _path(name: str, epoch: int | None) -> Path:
    shipped = epochs(name)
    if not shipped or (epoch is not None and epoch not in shipped):
        raise InputError(f"{name} has no weights of epoch {epoch}; shipped are {shipped or 'none'}")
    return FOLDER / weights_file(*MODELS[name], f"{shipped[-1] if epoch is None else epoch:02d}")
