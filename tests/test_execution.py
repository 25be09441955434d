from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from tiny import tiny_config, tiny_data

from ddpm_lib.batch import refresh_outputs, run_series, summary
from ddpm_lib.errors import NotebookError
from ddpm_lib.execution import Run, run_notebooks
from ddpm_lib.runs import fit_cached
from ddpm_lib.stored import normalised

LOOK_AROUND = "import os, sys\nprint(n, os.getcwd(), sys.executable, os.environ.get('OMP_NUM_THREADS'), sep='|')"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_notebook) -> dict[str, Run]:
    """One series, two notebooks at a time: one fine, one with a failing cell, one whose kernel dies."""
    folder = tmp_path_factory.mktemp("course")
    plan = {
        make_notebook(folder / "01_fine.ipynb", LOOK_AROUND, parameters="n: int = 1  # any"): {"n": 5},
        make_notebook(folder / "02_fails.ipynb", "x = 1\n1 / 0", "print('never')"): {},
        make_notebook(folder / "03_dies.ipynb", "import os\nos._exit(1)"): {},
    }
    foreign = folder / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text('{"argv": ["false"], "display_name": "another Python", "language": "python"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))  # searched first
        patch.delenv("OMP_NUM_THREADS", raising=False)
        results = run_notebooks(plan, folder / "runs", jobs=2)
    return {run.notebook.stem: run for run in results}


def test_every_notebook_of_the_plan_is_reported_in_order(runs: dict[str, Run]):
    assert list(runs) == ["01_fine", "02_fails", "03_dies"]
    assert [run.error is None for run in runs.values()] == [True, False, False]


def test_parameters_folder_interpreter_and_share_of_the_cores_reach_the_kernel(runs: dict[str, Run]):
    fine = runs["01_fine"]
    cells = nbformat.read(fine.copy, as_version=4).cells
    (output,) = cells[-1].outputs
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert output.text.strip() == f"5|{fine.notebook.parent}|{sys.executable}|{share}"


def test_the_original_is_untouched(runs: dict[str, Run]):
    cells = nbformat.read(runs["01_fine"].notebook, as_version=4).cells
    assert all(cell.get("outputs", []) == [] for cell in cells)


def test_a_failing_cell_is_named_and_the_copy_keeps_its_traceback(runs: dict[str, Run]):
    failed = runs["02_fails"]
    assert failed.error == "cell [1] `x = 1`: ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in failed.copy.read_text()


def test_a_dead_kernel_is_a_failure(runs: dict[str, Run]):
    assert "kernel died" in runs["03_dies"].error


def test_the_summary_names_results_failures_and_the_folder(runs: dict[str, Run]):
    text = summary(list(runs.values()))
    assert "1 of 3" in text
    assert "02_fails, cell [1] `x = 1`: ZeroDivisionError" in text
    assert str(runs["01_fine"].copy.parent) in text


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, make_notebook):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotebookError, match="cannot be made"):
        run_notebooks({make_notebook(tmp_path / "01.ipynb"): {}}, tmp_path / "file" / "runs")


POLITE = """\
import os, pathlib, time
try:
    pathlib.Path("polite").write_text(str(os.getpid()))
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path("saved").touch()
    raise
"""
STUBBORN = """\
import os, pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path("stubborn").write_text(str(os.getpid()))
time.sleep(60)
"""
INTERRUPTED = """\
import pathlib, sys
import ddpm_lib.execution
from ddpm_lib.batch import run_series
ddpm_lib.execution.GRACE = 1
folder = pathlib.Path(sys.argv[1])
run_series(folder / "mine.yaml", folder=folder / "notebooks", jobs=2)
"""


def test_an_interrupted_run_lets_kernels_save_then_ends_them_all(tmp_path: Path, make_notebook):
    """As with Ctrl-C: a signal to the process that runs the series, not to the kernels."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for stem, source in (("01_polite", POLITE), ("02_stubborn", STUBBORN), ("03_never", "print()")):
        make_notebook(folder / f"{stem}.ipynb", source)
    (tmp_path / "mine.yaml").write_text("01_polite:\n02_stubborn:\n03_never:\n")
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    started = [folder / "polite", folder / "stubborn"]
    while not all(file.exists() and file.read_text() for file in started):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert (folder / "saved").exists()
    for file in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
    assert not (tmp_path / "runs" / "mine" / "03_never.ipynb").exists()


def test_refreshed_outputs_are_stored_clean_and_twice_the_same(tmp_path: Path, make_notebook):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    slider = "import sys\nprint('bar', file=sys.stderr)\nprint(n)\nimport ipywidgets\n"
    slider += "ipywidgets.HBox([ipywidgets.IntSlider() for _ in range(3)])"
    path = make_notebook(folder / "01_a.ipynb", slider, parameters="n: int = 3  # any")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata.tags = ["nbval-ignore-output"]
    nbformat.write(notebook, path)
    broken = make_notebook(folder / "02_b.ipynb", "1 / 0")
    before = broken.read_bytes()

    results = refresh_outputs(folder=folder)

    assert [run.error is None for run in results] == [True, False]
    assert broken.read_bytes() == before
    first = path.read_text()
    assert "papermill" not in first
    assert "injected" not in first
    assert "iopub" not in first
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert [cell.id for cell in stored.cells] == [cell.id for cell in notebook.cells]
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2]
    assert [output.get("name") for output in stored.cells[-1].outputs] == ["stdout", None]
    refresh_outputs(["01"], folder=folder)
    assert path.read_text() == first


TRAINS = """
from tiny import tiny_config, tiny_data
from ddpm_lib.runs import fit_cached
run = fit_cached(tiny_config(epochs=0.25), tiny_data())
"""


def test_refreshed_outputs_are_those_of_a_first_run_whatever_was_trained_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_notebook
):
    cache, folder = tmp_path / "cache", tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("DDPM_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    trained = fit_cached(tiny_config(epochs=0.25), tiny_data(), progress=False)
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    for name in ("01_a", "02_b"):  # the same training: neither finds that of the other
        make_notebook(folder / f"{name}.ipynb", f"{TRAINS}\nprint(run.name)")

    assert [run.error for run in refresh_outputs(folder=folder)] == [None, None]

    for path in folder.glob("*.ipynb"):
        outputs = nbformat.read(path, as_version=4).cells[-1].outputs
        (said,) = (output.text for output in outputs if output.get("name") == "stdout")
        assert said == f"training on cpu in fp32\n{trained.name}\n"
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == files
    assert "DDPM_TRAININGS" not in os.environ


def test_normalising_joins_printed_pieces_and_changes_nothing_twice(runs: dict[str, Run]):
    notebook = nbformat.read(runs["01_fine"].copy, as_version=4)
    piece = notebook.cells[-1].outputs[0]
    notebook.cells[-1].outputs = [piece, copy.deepcopy(piece)]
    clean = normalised(notebook)
    assert clean.cells[-1].outputs[0].text == 2 * piece.text
    assert normalised(clean) == clean


def test_a_series_goes_to_the_folder_of_its_profile(tmp_path: Path, make_notebook):
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    make_notebook(folder / "01_a.ipynb", "print(n)", parameters="n: int = 3  # any")
    (folder / "profiles" / "smoke.yaml").write_text("01_a: {n: 4}")
    (run,) = run_series("smoke", overrides={"n": 6}, folder=folder)
    assert run.copy == tmp_path / "runs" / "smoke" / "01_a.ipynb"
    assert nbformat.read(run.copy, as_version=4).cells[-1].outputs[0].text == "6\n"
