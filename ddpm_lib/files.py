"""Where files go and how they get there whole: the cache folder, atomic writes, locks between processes."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm_lib.errors import DDPMError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "DDPM_CACHE"
TRAININGS_VARIABLE = "DDPM_TRAININGS"


def cache_dir() -> Path:
    """The project's cache folder, absolute and existing.

    `$DDPM_CACHE` if that is set; else `.cache` of the checkout, if the package lies in one (pyproject.toml
    beside it); else `ddpm-lib` in the user's cache folder (`$XDG_CACHE_HOME`, by default `~/.cache`).
    Raises DDPMError if the folder cannot be created.
    """
    checkout = Path(__file__).resolve().parents[1]
    if chosen := os.environ.get(CACHE_VARIABLE):
        folder = Path(chosen).expanduser()
    elif (checkout / "pyproject.toml").is_file():
        folder = checkout / ".cache"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm-lib"
    folder = folder.absolute()  # papermill and Dask workers change directory
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    return folder


def trainings_dir() -> Path:
    """The folder of the trainings that notebooks share: `$DDPM_TRAININGS` if that is set, else in the cache."""
    chosen = os.environ.get(TRAININGS_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else cache_dir() / "trainings"


@contextmanager
def temporary_folder(variable: str) -> Iterator[Path]:
    """Gives an empty folder, which processes that start during the block find under an environment variable.

    In the end the folder goes, and the variable is what it was.
    """
    before = os.environ.get(variable)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a killed process may still write
        os.environ[variable] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[variable]
            if before is not None:
                os.environ[variable] = before


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; if the block ends without exception, it becomes `path` in one step.

    The temporary path has the same file name (so suffixes still work) in a new folder beside `path`, hence on
    the same disk. However the block ends, even by a kill, `path` is the old file or the new one, whole.
    Raises DDPMError if the disk is full or `path` must not be written; the old file is then untouched.
    """
    path = Path(path)
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp"))
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    try:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as file:  # on disk before it gets its name, or a power cut leaves an empty file
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if _disk_is_full(folder, error):
            raise _unwritable(path, "no space left on that disk; what stood there before is unchanged") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock `path` + ".lock" during the block: one process at a time; the others wait.

    The operating system frees the lock when its process ends, however it ends.
    Raises DDPMError if the lock file cannot be written.
    """
    path = Path(path)
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("waiting for another process that works on %s", path)
            lock.acquire()
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    try:
        yield
    finally:
        lock.release()


def _disk_is_full(folder: Path, error: Exception) -> bool:
    if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
        return True
    # safetensors reports it in words only; torch.save and numpy.save not at all, so the disk itself is asked.
    return "No space left on device" in str(error) or shutil.disk_usage(folder).free < 2**16


def _unwritable(path: Path, reason: str | None) -> DDPMError:
    return DDPMError(
        f"{path} cannot be written: {reason}. "
        f"Make room or choose another folder (for the cache: by setting {CACHE_VARIABLE})"
    )
