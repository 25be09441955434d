from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ddpm_lib.batch
import ddpm_lib.data_files
import ddpm_lib.records
from ddpm_lib.cli import app
from ddpm_lib.errors import CheckpointError, DataError, InputError, NotebookError, Stopped
from ddpm_lib.execution import Run


def ddpm(*arguments: str):
    return CliRunner().invoke(app, arguments)


def raise_(error: BaseException):
    def function(*_, **__):
        raise error

    return function


@pytest.fixture
def asked(monkeypatch) -> list:
    """What `ddpm run` asked the library for; nothing runs."""
    calls = []

    def run_series(*arguments):
        calls.append(arguments)
        return [Run(Path("01_a.ipynb"), Path("/runs/01_a.ipynb"), 12.0, None)]

    monkeypatch.setattr(ddpm_lib.batch, "run_series", run_series)
    return calls


def test_help_needs_no_heavy_package():
    program = (
        "import sys, ddpm_lib.cli; "
        "print({'torch', 'numpy', 'papermill', 'matplotlib', 'nbformat'} & set(sys.modules) or 'light')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "light"


@pytest.mark.parametrize("command", ["data", "run", "outputs", "train", "sample", "evaluate", "sweep"])
def test_every_command_is_listed_and_has_help(command: str):
    assert f"  {command} " in ddpm("--help").stdout
    assert ddpm(command, "--help").stdout.startswith("Usage: ")


def test_options_reach_the_library(asked: list):
    result = ddpm(
        "run",
        "--profile",
        "smoke",
        "--only",
        "04",
        "--only",
        "05",
        "-p",
        "lr=3e-4",
        "-p",
        "a=b=c",
        "--jobs",
        "2",
        "--out",
        "x",
    )
    assert asked == [("smoke", ["04", "05"], {"lr": 3e-4, "a": "b=c"}, Path("x"), 2)]
    assert result.exit_code == 0
    assert "1 of 1" in result.stdout
    assert "make lab" in result.stdout


def test_without_options_the_laptop_profile_runs(asked: list):
    ddpm("run")
    assert asked == [("laptop", (), {}, None, 1)]


@pytest.mark.parametrize("setting", ["epochs", "=3", ""])
def test_a_setting_without_name_or_value_is_wrong_input(asked: list, setting: str):
    result = ddpm("run", "-p", setting)
    assert (result.exit_code, asked) == (2, [])
    assert "write -p name=value" in result.stderr


def test_a_failed_cell_gives_exit_status_1_and_the_table(monkeypatch):
    failed = Run(
        Path("01_a.ipynb"), Path("/runs/01_a.ipynb"), 1.0, "cell [3] `1/0`: ZeroDivisionError: division by zero"
    )
    monkeypatch.setattr(ddpm_lib.batch, "run_series", lambda *_: [failed])
    result = ddpm("run")
    assert result.exit_code == 1
    assert "0 of 1" in result.stdout
    assert "01_a, cell [3] `1/0`: ZeroDivisionError" in result.stdout


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotebookError("x is unknown"), 2),
        (InputError("x is unknown"), 2),
        (DataError("x is unknown"), 1),
        (CheckpointError("x is unknown"), 1),
        (KeyboardInterrupt(), 130),
        (Stopped("stopped at step 3; the same call goes on from there"), 130),
    ],
)
def test_an_error_is_one_line_on_stderr_with_its_status(monkeypatch, error: BaseException, status: int):
    monkeypatch.setattr(ddpm_lib.batch, "run_series", raise_(error))
    result = ddpm("run")
    assert result.exit_code == status
    assert result.stderr.strip() == f"ddpm: {str(error) or 'interrupted'}"
    assert "Traceback" not in result.output


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(ddpm_lib.batch, "run_series", raise_(ZeroDivisionError()))
    assert isinstance(ddpm("run").exception, ZeroDivisionError)


def test_data_says_where_it_is_and_how_much(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(ddpm_lib.data_files, "find_fashion_mnist", lambda: tmp_path)
    output = ddpm("data").stdout
    assert str(tmp_path) in output
    assert "60,000 train images, 10,000 test images" in output


def test_outputs_refreshes_the_chosen_notebooks(monkeypatch):
    calls = []
    monkeypatch.setattr(ddpm_lib.batch, "refresh_outputs", lambda only: calls.append(only) or [])
    assert ddpm("outputs", "--only", "03").exit_code == 0
    assert calls == [["03"]]


def test_train_goes_on_where_it_was_and_sample_draws_from_it(monkeypatch, tmp_path: Path):
    run, picture = tmp_path / "run", tmp_path / "samples.png"
    tiny = (
        "train",
        "cfg",
        "--folder",
        str(run),
        "--images",
        "16",
        "-p",
        "batch_size=8",
        "-p",
        "epochs=1",
        "-p",
        "T=20",
    )
    first = ddpm(*tiny)
    assert first.exit_code == 0, first.output
    state = (run / "state.safetensors").read_bytes()
    assert ddpm(*tiny).exit_code == 0  # finished: nothing left to do
    assert (run / "state.safetensors").read_bytes() == state
    drawn = ddpm("sample", str(run), "--n", "4", "--steps", "2", "--guidance-weight", "1", "--out", str(picture))
    assert drawn.exit_code == 0, drawn.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    measured = ddpm("evaluate", str(run), "--n", "100", "--steps", "2", "--seed", "5")
    assert measured.exit_code == 0, measured.output
    record = json.loads(measured.stdout)
    assert (record["n"], record["steps"], record["seed"]) == (100, 2, 5)
    assert record["fid"]["value"] > record["noise_floor"]["fid"]["high"]  # two steps of training do not make garments
    two_steps = partial(ddpm_lib.records.evaluate_model, steps=2)
    monkeypatch.setattr(ddpm_lib.records, "evaluate_model", two_steps)
    recorded = ddpm("record", str(run), "--n", "100", "--epoch", "1")
    assert recorded.exit_code == 0, recorded.output
    assert len((run / "records.jsonl").read_text().splitlines()) == 8  # raw and averaged, four guidance weights
    again = ddpm("record", str(run), "--n", "100", "--epoch", "1", "-w", "0", "--seed", "1")
    assert again.exit_code == 0, again.output
    assert len((run / "records_seed_1.jsonl").read_text().splitlines()) == 2  # raw and averaged


def test_a_model_of_the_course_is_sampled_by_its_name(tmp_path: Path):
    picture = tmp_path / "samples.png"
    drawn = ddpm("sample", "--model", "cfg_ema", "--epoch", "5", "--n", "4", "--steps", "2", "--out", str(picture))
    assert drawn.exit_code == 0, drawn.output
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "cgf"], "there is no recipe 'cgf'; did you mean cfg?"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "cfg", "-p", "learning_rate=1"], "there is no setting 'learning_rate'"),
        (["train", "cfg", "-p", "lr=fast"], "lr is 'fast'"),
        (["train", "cfg", "-p", "lr"], "write -p name=value"),
        (["sample", "no/such/run"], "no/such/run kept no weights"),
        (["sample"], "name one model"),
        (["sample", "no/such/run", "--model", "cfg"], "name one model"),
        (["evaluate", "--model", "cgf"], "there is no model 'cgf'; did you mean cfg?"),
        (["evaluate", "--model", "cfg", "--epoch", "3"], "cfg has no weights of epoch 3"),
        (["record", "no/such/run"], "no/such/run kept no weights"),
    ],
)
def test_train_and_sample_refuse_wrong_input_in_one_line(arguments: list[str], message: str):
    result = ddpm(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
