"""Sweeps whose processes are killed: what is done stays done, what is missing is done, and nothing else is left."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

WORK = """\
import pathlib, time
from ddpm_lib.results import record
pathlib.Path("starts", f"{n}-{time.time_ns()}").touch()
time.sleep(pause)
record(square=n * n, word=f"number {n}")
"""


ALONE = ("--no-nanny", "--nthreads", "1", "--no-dashboard")


@pytest.fixture
def folder(tmp_path: Path, make_notebook) -> Path:
    (tmp_path / "starts").mkdir()
    make_notebook(tmp_path / "work.ipynb", WORK, parameters="n: int = 0  # which\npause: float = 0.1  # seconds")
    return tmp_path


def sweep_file(folder: Path, runs: int, pause: float) -> Path:
    path = folder / "squares.yaml"
    path.write_text(f"notebook: work.ipynb\nfixed: {{pause: {pause}}}\ngrid: {{n: {list(range(runs))}}}\n")
    return path


@contextmanager
def sweeping(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`ddpm sweep` as a process of its own; killed at the end of the block, if it is still there."""
    command = [sys.executable, "-m", "ddpm_lib.cli", "sweep", str(path), "--out", str(path.parent / "out"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def cluster_process(name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie: killed before, and not yet replaced
            found += [child] * ("distributed.cli.dask_worker" in child.cmdline())
    return found


def done(folder: Path) -> int:
    return len(list((folder / "out" / "outcomes").glob("*.json")))


def check_squares(folder: Path, runs: int) -> None:
    table = pd.read_parquet(folder / "out" / "table.parquet")
    assert table.status.tolist() == ["ok"] * runs
    assert table.square.tolist() == [n * n for n in range(runs)]
    assert table.word.tolist() == [f"number {n}" for n in range(runs)]
    pd.testing.assert_series_equal(pd.read_csv(folder / "out" / "table.csv").square, table.square, check_dtype=False)
    assert len(list((folder / "out" / "outcomes").iterdir())) == runs
    assert len(list((folder / "out").glob("n=*.ipynb"))) == runs
    for path in (folder / "out" / "outcomes").iterdir():
        n = json.loads(path.read_text())["parameters"]["n"]
        begun = [int(start.name.split("-")[1]) for start in (folder / "starts").glob(f"{n}-*")]
        assert max(begun) < path.stat().st_mtime_ns, f"run {n} began again after it was done"


def test_a_sweep_survives_twenty_killed_workers_and_five_times_its_own_death(folder: Path):
    """Whoever dies when: 24 runs end as 24 right results, and none begins again once it is done."""
    path = sweep_file(folder, runs=24, pause=0.1)
    chance = random.Random(0)
    for _ in range(5):
        with sweeping(path, "--workers", "2", "--no-dashboard") as process:
            for _ in range(4):
                time.sleep(chance.uniform(0.2, 2.0))
                while not (workers := workers_of(process)):
                    assert process.poll() is None, process.communicate()[0]
                    time.sleep(0.05)
                chance.choice(workers).kill()
            time.sleep(chance.uniform(0, 1))
    assert 0 < done(folder) < 24, "the killed sweeps died too early, or too late, to show anything"
    with sweeping(path, "--workers", "2", "--no-dashboard") as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    check_squares(folder, 24)


def test_a_sweep_on_a_cluster_outlives_its_scheduler_and_can_end_without_one(folder: Path):
    """Scheduler and workers as processes of their own, which share the folder; then the scheduler is killed."""
    path = sweep_file(folder, runs=8, pause=0.5)
    meeting = folder / "scheduler.json"
    programs = [("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"), *[("worker", *ALONE)] * 2]
    with ExitStack() as stack:
        scheduler, *_ = (
            stack.enter_context(cluster_process(name, "--scheduler-file", str(meeting), *options))
            for name, *options in programs
        )
        wait_for(meeting.exists)
        address = json.loads(meeting.read_text())["address"]
        with sweeping(path, "--scheduler", address) as process:
            wait_for(lambda: done(folder) >= 2)
            scheduler.kill()
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "ddpm: the Dask scheduler has gone away" in output
    assert "Traceback" not in output
    with sweeping(path, "--workers", "2") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "Dask's dashboard: http://127.0.0.1:" in output
    check_squares(folder, 8)


def test_ctrl_c_lets_the_notebook_save_and_the_run_stays_missing(folder: Path, make_notebook):
    source = "import pathlib, time\ntry:\n    pathlib.Path('begun').touch()\n    time.sleep(60)\n"
    source += "except KeyboardInterrupt:\n    pathlib.Path('saved').touch()\n    raise"
    make_notebook(folder / "work.ipynb", source)
    path = folder / "one.yaml"
    path.write_text("notebook: work.ipynb")
    with sweeping(path, "--no-dashboard") as process:
        wait_for((folder / "begun").exists)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "0 done, 0 failed, 1 missing" in output
    assert "Traceback" not in output
    assert (folder / "saved").exists()
