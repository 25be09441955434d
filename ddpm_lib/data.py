"""Fashion-MNIST: finds it, verifies it, loads it into memory once, scaled to [-1, 1].

Data: Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747; stored in MNIST's file format, IDX.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import shutil
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from http.client import HTTPException
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lib.errors import DataError, InputError, nearest
from ddpm_lib.files import cache_dir, locked

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
FOLDER_VARIABLE = "FASHION_MNIST_DIR"
SPLITS = {  # split: (images, labels, how many)
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}
# sha256 of the unpacked contents: the .gz containers differ from one mirror to the next, the contents do not.
CHECKSUMS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
NETWORK_TIMEOUT = 20  # seconds without a byte; a source that answers may take longer in all
COMMAND_TIMEOUT = 600  # seconds for one apt-get or dpkg command


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
    images, labels = _load(split, os.environ.get(FOLDER_VARIABLE), cache_dir() / "fashion-mnist")
    return Split(images[:limit], labels[:limit])


def find_fashion_mnist() -> Path:
    """The folder that holds the four files, fetched first if need be; all four verified.

    If the environment variable FASHION_MNIST_DIR names a folder, that one and no other. Else the project's
    cache; if need be it is filled from torchvision's download, Debian's package where that is installed, or
    the same package through apt-get, whichever works first. Processes may call this at the same time.
    Raises DataError, which lists what was tried, what was wrong with each, and what to do.
    """
    folder, _ = _obtain(CHECKSUMS, os.environ.get(FOLDER_VARIABLE), cache_dir() / "fashion-mnist")
    return folder


@lru_cache(maxsize=2)
def _load(split: str, wish: str | None, cache: Path) -> Split:
    images_name, labels_name, _ = SPLITS[split]
    folder, contents = _obtain((images_name, labels_name), wish, cache)
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


def read_verified(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The unpacked contents of the named files in `folder`, each stored as `name.gz` or unpacked as `name`.

    Raises DataError, which says what is wrong with every file that is missing, torn or altered.
    """
    if not folder.is_dir():
        raise DataError("not a folder" if folder.exists() else "no such folder")
    contents, problems = {}, []
    for name in names:
        try:
            contents[name] = _read_one(folder, name)
        except DataError as error:  # noqa: PERF203 (goes on, to report all problems at once)
            problems.append(str(error))
    if problems:
        raise DataError("; ".join(problems))
    return contents


def _read_one(folder: Path, name: str) -> bytes:
    path = _stored(folder, name)
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise DataError(f"{name}.gz is missing") from None
    except (EOFError, zlib.error, OSError) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path.name} cannot be unpacked: {error}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != CHECKSUMS[name]:
        known = {checksum: other for other, checksum in CHECKSUMS.items()}
        what = f"those of {known[digest]}" if digest in known else f"{len(raw):,} other bytes"
        raise DataError(f"{path.name} unpacks to {what} (sha256 {digest[:8]}…, not {CHECKSUMS[name][:8]}…)")
    return raw


def _stored(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() or not (folder / name).exists() else folder / name


def _obtain(names: Iterable[str], wish: str | None, cache: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder, and the verified contents of the named files in it."""
    if wish:
        folder = Path(wish).expanduser().absolute()
        try:
            return folder, read_verified(folder, names)
        except DataError as error:
            raise DataError(_not_found([f"{FOLDER_VARIABLE}, {folder}: {error}"], wish)) from error
    try:
        return cache, read_verified(cache, names)
    except DataError:
        return cache, _fill(cache, names)


def _fill(cache: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Fetch all four files into the cache, unless another process has just done so; read the named ones."""
    with locked(cache):
        try:
            return read_verified(cache, names)
        except DataError as error:
            tried = [f"the project's cache, {cache}: {error}"]
            level = logging.WARNING if cache.exists() else logging.INFO
        # One fixed name: we hold the lock, so whatever is there was left by a process that was killed.
        staging = cache.with_name(f"{cache.name}.tmp")
        for label, fetch in SOURCES:
            shutil.rmtree(staging, ignore_errors=True)
            try:
                staging.mkdir()
                folder = fetch(staging)
                read_verified(folder, CHECKSUMS)
                _store(folder, staging, cache)
                contents = read_verified(cache, names)
            except (DataError, OSError) as error:
                tried.append(f"{label}: {error}")
            else:
                logger.log(level, "Fashion-MNIST: %s; fetched from %s", tried[0], label)
                return contents
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    raise DataError(_not_found(tried, None))


def _store(folder: Path, staging: Path, cache: Path) -> None:
    """Put the four files of `folder` into the cache, each in one step, in place of what is there."""
    cache.mkdir(exist_ok=True)
    for name in CHECKSUMS:
        path = _stored(folder, name)
        copy = staging / f"{path.name}.copy"  # on the cache's disk, where moving is one step
        shutil.copyfile(path, copy)
        os.replace(copy, cache / path.name)
        other = name if path.suffix == ".gz" else f"{name}.gz"
        (cache / other).unlink(missing_ok=True)


def _not_found(tried: list[str], wish: str | None) -> str:
    if wish:
        remedy = f"{FOLDER_VARIABLE} is set, so only it was tried: correct it, or unset it and run `ddpm data`"
    else:
        files = ", ".join(f"{name}.gz" for name in CHECKSUMS)
        remedy = f"run `ddpm data` with a network connection, or set {FOLDER_VARIABLE} to a folder with {files}"
    lines = "".join(f"\n  - {line}" for line in tried)
    return f"Fashion-MNIST was not found, or is damaged. Tried:{lines}\nWhat to do: {remedy}"


def _fetch_torchvision(staging: Path) -> Path:
    from torchvision.datasets import FashionMNIST  # here: it takes a second to import and is rarely needed

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)  # torchvision sets none, and would wait for ever
    try:
        FashionMNIST(staging, download=True)
    except (RuntimeError, OSError, HTTPException, EOFError, zlib.error) as error:
        raise DataError(" ".join(str(error).split())) from error
    finally:
        socket.setdefaulttimeout(before)
    return staging / "FashionMNIST" / "raw"


def _fetch_debian_download(staging: Path) -> Path:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise DataError("apt-get and dpkg are not both on this machine")
    apt = ["apt-get", "-o", f"Acquire::http::Timeout={NETWORK_TIMEOUT}", "-o", "Acquire::Retries=1"]
    download = [*apt, "download", DEBIAN_PACKAGE]
    try:
        _run(download, staging)
    except DataError as error:
        if os.geteuid() != 0:
            raise DataError(f"{error} (without package lists, run `sudo apt-get update` first)") from error
        _run([*apt, "update"], staging)  # a fresh machine has no package lists, and only root may get them
        _run(download, staging)
    for package in staging.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(staging)], staging)
    return staging / DEBIAN_FOLDER.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    english = {**os.environ, "LC_ALL": "C"}
    try:
        result = subprocess.run(
            command, cwd=folder, env=english, capture_output=True, text=True, timeout=COMMAND_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"`{' '.join(command)}` did not end within {COMMAND_TIMEOUT} s") from error
    if result.returncode != 0:
        raise DataError(f"`{' '.join(command)}` failed: {' '.join(result.stderr.split())}")


# What fills the cache, in this order: a name, and a function from an empty folder to where the files are.
SOURCES: tuple[tuple[str, Callable[[Path], Path]], ...] = (
    ("torchvision's download", _fetch_torchvision),
    (f"Debian's package, installed, {DEBIAN_FOLDER}", lambda staging: DEBIAN_FOLDER),
    (f"Debian's package, `apt-get download {DEBIAN_PACKAGE}`", _fetch_debian_download),
)
