"""The four files of Fashion-MNIST: finds them, verifies them, fetches them where they are missing.

Data: Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import shutil
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path

from ddpm_lib.errors import DataError
from ddpm_lib.files import cache_dir, locked

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "FASHION_MNIST_DIR"
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


def find_fashion_mnist() -> Path:
    """The folder that holds the four files, fetched first if need be; all four verified.

    If the environment variable FASHION_MNIST_DIR names a folder, that one and no other. Else the project's
    cache; if need be it is filled from torchvision's download, Debian's package where that is installed, or
    the same package through apt-get, whichever works first. Processes may call this at the same time.
    Raises DataError, which lists what was tried, what was wrong with each, and what to do.
    """
    return obtain(CHECKSUMS, *places())[0]


def places() -> tuple[str | None, Path]:
    """What FASHION_MNIST_DIR says, if anything, and the data's folder in the project's cache."""
    return os.environ.get(FOLDER_VARIABLE), cache_dir() / "fashion-mnist"


def obtain(names: Iterable[str], wish: str | None, cache: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder, and the verified contents of the named files in it, fetched if need be. Raises DataError."""
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
