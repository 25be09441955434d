"""Files arrive whole or not at all; one process at a time holds a lock; the cache is where the user says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_lib import files
from ddpm_lib.errors import DDPMError
from ddpm_lib.files import atomic_path, atomic_write, cache_dir, locked, trainings_dir

CHECKOUT = Path(__file__).resolve().parents[1]


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A second Python process, in the checkout, whose output we can read."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def package_in(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(files, "__file__", str(root / "ddpm_lib" / "files.py"))


# --- cache_dir


def test_ddpm_cache_names_the_cache_and_it_is_created(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b"
    assert cache_dir().is_dir()


def test_a_relative_ddpm_cache_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_CACHE", "here")
    assert cache_dir() == tmp_path / "here"


@pytest.mark.parametrize("value", [None, ""])
def test_a_checkout_keeps_its_cache_beside_pyproject(tmp_path, monkeypatch, value):
    monkeypatch.delenv("DDPM_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("DDPM_CACHE", value)
    (tmp_path / "pyproject.toml").touch()
    package_in(monkeypatch, tmp_path)
    assert cache_dir() == tmp_path / ".cache"


def test_an_installed_package_uses_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("DDPM_CACHE", raising=False)
    package_in(monkeypatch, tmp_path / "site-packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "ddpm-lib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "ddpm-lib"


def test_trainings_lie_in_the_cache_unless_their_variable_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDPM_TRAININGS", raising=False)
    assert trainings_dir() == tmp_path / "cache" / "trainings"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_TRAININGS", "here")
    assert trainings_dir() == tmp_path / "here"


def test_a_cache_that_cannot_be_created_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DDPMError, match=r"file cannot be written: .*DDPM_CACHE"):
        cache_dir()


# --- atomic writes


def test_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "weights.bin"
    atomic_write(path, b"first")
    atomic_write(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["weights.bin"]


def test_a_reader_of_the_old_file_never_sees_the_new_one_half(tmp_path):
    path = tmp_path / "weights.bin"
    atomic_write(path, b"first")
    with path.open("rb") as reader:
        atomic_write(path, b"second")
        assert reader.read() == b"first"  # replaced, not overwritten


def test_the_temporary_path_keeps_the_suffix_and_the_folder(tmp_path):
    with atomic_path(tmp_path / "grid.png") as temporary:
        assert temporary.name == "grid.png"
        assert temporary.parent.parent == tmp_path
        assert not (tmp_path / "grid.png").exists()
        temporary.write_bytes(b"picture")
    assert (tmp_path / "grid.png").read_bytes() == b"picture"


def test_a_written_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").touch()
    atomic_write(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_whole_and_is_not_renamed(tmp_path, error):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"ha")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.bin"]


def test_a_kill_in_the_middle_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    script = """if True:
        import sys, time
        from ddpm_lib.files import atomic_path
        with atomic_path(sys.argv[1]) as temporary, open(temporary, "wb") as file:
            file.write(b"half of the new")
            file.flush()
            print("half", flush=True)
            time.sleep(60)
        """
    with start(script, path) as writer:
        assert writer.stdout.readline() == "half\n"
        kill(writer)
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_one_clear_error_and_the_old_file_is_whole(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    # /dev/full is the system's own full disk: every write to it fails with ENOSPC.
    with pytest.raises(DDPMError, match=r"weights\.bin.*no space left.*unchanged"), atomic_path(path):
        Path("/dev/full").write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.bin"]


@pytest.mark.parametrize(
    ("message", "free"),
    [("PytorchStreamWriter failed", 0), ("I/O error: No space left on device (os error 28)", 10**9)],
    ids=["torch", "safetensors"],
)
def test_a_full_disk_is_recognised_behind_a_writers_own_error(tmp_path, monkeypatch, message, free):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    with pytest.raises(DDPMError, match="no space left") as caught, atomic_path(tmp_path / "weights.bin"):
        raise RuntimeError(message)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_writing_to_a_folder_is_refused_before_the_work(tmp_path):
    with pytest.raises(DDPMError, match="it is a folder"):
        atomic_write(tmp_path, b"new")
    assert os.listdir(tmp_path) == []


def test_writing_below_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DDPMError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "weights.bin", b"new")


# --- locks


def test_a_lock_admits_one_process_at_a_time(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = """if True:
        import pathlib, sys, time
        from ddpm_lib.files import locked
        counter = pathlib.Path(sys.argv[1])
        for _ in range(25):
            with locked(counter):
                value = int(counter.read_text())
                time.sleep(0.002)  # without the lock, the other process now reads the same value
                counter.write_text(str(value + 1))
        """
    processes = [start(script, counter) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert counter.read_text() == "75"


def test_a_killed_process_frees_its_lock(tmp_path):
    script = """if True:
        import sys, time
        from ddpm_lib.files import locked
        with locked(sys.argv[1]):
            print("held", flush=True)
            time.sleep(60)
        """
    with start(script, tmp_path / "work") as holder:
        assert holder.stdout.readline() == "held\n"
        kill(holder)
    with locked(tmp_path / "work"):
        pass


def test_an_exception_frees_the_lock(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="a bug"), locked(tmp_path / "new" / "work"):
            raise ValueError("a bug")


def test_a_lock_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DDPMError, match="cannot be written"), locked(tmp_path / "file" / "work"):
        pass
