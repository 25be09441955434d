"""Fashion-MNIST in memory: loaded once, scaled to [-1, 1]. Where it comes from: see data_files.

Data: Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747; stored in MNIST's file format, IDX.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lib.data_files import obtain, places
from ddpm_lib.errors import DataError, InputError, nearest

logger = logging.getLogger(__name__)

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SPLITS = {  # split: (images, labels, how many)
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}


class Split(NamedTuple):
    """One half of the data set, in memory."""

    images: Tensor  # [N, 1, 28, 28] float32 in [-1, 1]
    labels: Tensor  # [N] int64 in 0 … 9, see CLASS_NAMES


def load_fashion_mnist(split: str = "train", limit: int | None = None) -> Split:
    """The first `limit` images and labels of a split (all of them by default), fetched first if need be.

    `split` is "train" (60,000 images) or "test" (10,000). Byte v becomes v / 127.5 - 1: black is exactly -1,
    white exactly 1. Further calls in one process return the same memory: clone before changing it in place.
    Raises InputError for another split or limit, DataError if the data cannot be had (`find_fashion_mnist`).
    """
    if split not in tuple(SPLITS):
        raise InputError(f"unknown split {split!r}: {nearest(str(split), SPLITS)}")
    count = SPLITS[split][2]
    whole = isinstance(limit, Integral) and not isinstance(limit, bool)
    if limit is not None and not (whole and 1 <= limit <= count):
        raise InputError(f"limit {limit!r} is not a whole number in 1 … {count} (or None: all of {split!r})")
    images, labels = _load(split, *places())
    return Split(images[:limit], labels[:limit])


@lru_cache(maxsize=2)
def _load(split: str, wish: str | None, cache: Path) -> Split:
    images_name, labels_name, _ = SPLITS[split]
    folder, contents = obtain((images_name, labels_name), wish, cache)
    logger.info("Fashion-MNIST, %s, read from %s", split, folder)
    images = parse_idx(contents[images_name], ndim=3).unsqueeze(1)
    labels = parse_idx(contents[labels_name], ndim=1)
    return Split(images.float().div_(127.5).sub_(1), labels.long())


def parse_idx(raw: bytes, ndim: int) -> Tensor:
    """The uint8 tensor of `ndim` dimensions in an unpacked IDX file.

    IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values. Raises DataError if the header differs or does not fit the length.
    """
    if raw[:4] != bytes([0, 0, 8, ndim]):
        raise DataError(f"not an IDX file of bytes in {ndim} dimensions: it starts with 0x{raw[:4].hex()}")
    header = 4 + 4 * ndim
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4)]
    if len(raw) != header + math.prod(shape):
        raise DataError(f"an IDX file of shape {shape} has {header + math.prod(shape)} bytes, not {len(raw)}")
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(shape)
