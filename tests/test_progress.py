"""A bar is followed from another process: by `ddpm run`, while a cell of a notebook works for hours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddpm_lib import execution
from ddpm_lib.execution import run_notebooks
from ddpm_lib.progress import PROGRESS_VARIABLE, ProgressBar, followed

SHOWS_TWO_OF_TEN = """\
import time
from ddpm_lib.progress import ProgressBar
with ProgressBar(total=10, unit="step") as bar:
    bar.update(2)
    bar.set_postfix(loss="0.5")
    time.sleep(1.1)
    bar.refresh()
    input()
input()
"""
TAKES_ITS_TIME = """\
import time
from ddpm_lib.progress import ProgressBar
for _ in ProgressBar(range(30), unit="evaluation"):
    time.sleep(0.1)
"""


def started() -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, "-c", SHOWS_TWO_OF_TEN], **pipes)


def wait_for(lines, wanted) -> list[str]:
    end = time.monotonic() + 60
    while not wanted(found := lines()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def test_a_bar_is_a_line_elsewhere_until_it_ends():
    with followed() as lines:
        process = started()
        (line,) = wait_for(lines, lambda found: any("2/10" in line for line in found))
        assert line.startswith("step 2/10, ")
        assert line.endswith(" left, loss=0.5")
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for(lines, lambda found: found == [])
        process.communicate("\n")
    assert process.returncode == 0


def test_of_a_killed_process_no_line_stays():
    with followed() as lines:
        process = started()
        wait_for(lines, lambda found: found != [])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert lines() == []


def test_where_nobody_follows_or_the_folder_is_gone_a_bar_works_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    assert list(ProgressBar(range(3))) == [0, 1, 2]
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "gone"))
    assert list(ProgressBar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err.count("3/3") == 2
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path))
    assert list(ProgressBar(range(3), disable=True)) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_following_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PROGRESS_VARIABLE, "before")
    with followed():
        folder = os.environ[PROGRESS_VARIABLE]
        assert Path(folder).is_dir()
    assert os.environ[PROGRESS_VARIABLE] == "before"
    assert not Path(folder).exists()


def test_a_series_of_notebooks_shows_the_bar_of_the_cell_that_works(
    tmp_path: Path, make_notebook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(execution, "LOGGED_EVERY", 0.1)
    (run,) = run_notebooks({make_notebook(tmp_path / "01_long.ipynb", TAKES_ITS_TIME): {}}, tmp_path / "runs")
    assert run.error is None
    shown = capsys.readouterr().err
    assert "cell 0/1, evaluation " in shown
    assert "/30, " in shown
    assert shown.rstrip().endswith("left")
