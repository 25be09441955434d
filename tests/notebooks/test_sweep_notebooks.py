"""The notebooks that are there to be swept run, and record what their sweeps draw; stored summaries keep their form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import rules
from typer.testing import CliRunner

from ddpm_lib.batch import NOTEBOOKS, check_parameters
from ddpm_lib.cli import app
from ddpm_lib.execution import execute
from ddpm_lib.results import recorded
from ddpm_lib.sweeps.spec import Sweep, load_sweep
from ddpm_lib.sweeps.summary import is_stored_summary
from ddpm_lib.sweeps.worker import Outcome, outcome_path

QUICK = {
    "evaluate_model": (
        {"n": 100, "steps": 2},
        {"fid", "fid_low", "fid_high", "kid", "precision", "recall", "accuracy"},
    ),
    "train_model": (
        {"images": 64, "batch_size": 16, "epochs": 1.0, "n": 100, "guidance_weight": 0.0},
        {"loss", "fid", "fid_raw", "recall", "accuracy"},
    ),
}


FORM = [rule for rule in rules.RULES if rule not in (rules.one_parameters_cell, rules.enough_prose_and_not_too_much)]


def stored_summaries() -> list[Path]:
    return [path for path in sorted((NOTEBOOKS / "sweeps").glob("*.ipynb")) if is_stored_summary(path)]


def problems(summary: Path) -> list[str]:
    """What is wrong with a stored summary: in its form, or beside its sweep's file and its table."""
    sweep, table = load_sweep(summary.with_suffix(".yaml")), pd.read_csv(summary.with_suffix(".csv"))
    asked = [[run.parameters[name] for name in sweep.swept] for run in sweep.runs]
    found = [f"{rule.__name__}: {problem}" for rule in FORM for problem in rule(nbformat.read(summary, as_version=4))]
    found += ["the table holds other runs than the sweep"] * (table[sweep.swept].to_numpy().tolist() != asked)
    return found + ["a run is not done"] * (not (table.status == "ok").all())


def test_every_notebook_is_tried():
    stored = stored_summaries()
    assert {path.stem for path in (NOTEBOOKS / "sweeps").glob("*.ipynb") if path not in stored} == set(QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_a_notebook_for_sweeps_runs_and_records(name: str, tmp_path: Path):
    notebook = NOTEBOOKS / "sweeps" / f"{name}.ipynb"
    parameters, names = QUICK[name]
    check_parameters(notebook, parameters)
    assert execute(notebook, tmp_path / "copy.ipynb", parameters) is None
    results = recorded(nbformat.read(tmp_path / "copy.ipynb", as_version=4))
    assert set(results) == names
    assert all(math.isfinite(value) for value in results.values())


@pytest.fixture
def done(tmp_path: Path, make_notebook) -> Path:
    """A sweep's file, whose four runs are all done, as far as the outcomes in `out` say."""
    make_notebook(tmp_path / "work.ipynb", "pass", parameters='w: float = 0.0  # weight\nname: str = "a"  # sampler')
    file = tmp_path / "mine.yaml"
    file.write_text("notebook: work.ipynb\nabout: What w does.\ngrid: {w: [0, 0.5], name: [a, b]}\n")
    finish(load_sweep(file), tmp_path / "out")
    return file


def finish(sweep: Sweep, folder: Path) -> None:
    (folder / "outcomes").mkdir(parents=True)
    for n, run in enumerate(sweep.runs):
        results = {"fid": n / 3, "fid_low": n / 3 - 0.1, "fid_high": n / 3 + 0.1, "word": "fine"}
        outcome = Outcome(run.key, run.name, run.parameters, results, None, 2.0, "here", "a processor", "3.11")
        outcome_path(folder, run.key).write_text(json.dumps(asdict(outcome)))


def store(file: Path):
    return CliRunner().invoke(app, ["sweep", "store", str(file), "--out", str(file.parent / "out")])


def test_a_summary_is_stored_in_the_form_of_stored_notebooks_and_only_over_an_older_one(done: Path):
    assert store(done).exit_code == 0
    summary = done.with_suffix(".ipynb")
    assert is_stored_summary(summary)
    assert problems(summary) == []
    notebook = nbformat.read(summary, as_version=4)
    (picture,) = [output for _, output in rules.outputs(notebook) if "image/png" in output.get("data", {})]
    assert picture.metadata["image/png"]["alt"] == "fid over w and name, as in the table above"
    for command in (["format", "--check"], ["check"]):  # as if it lay where the ready sweeps are
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", NOTEBOOKS / "sweeps" / "mine.ipynb", "-"]
        checked = subprocess.run(ruff, input=summary.read_bytes(), capture_output=True)
        assert checked.returncode == 0, checked.stdout

    done.write_text(done.read_text().replace("0.5", "0.75"))
    assert problems(summary) == ["the table holds other runs than the sweep"]
    result = store(done)
    assert (result.exit_code, "2 of the 4 runs of mine are not done" in result.stderr) == (2, True)

    notebook.cells[0]["id"] = "mine"
    nbformat.write(notebook, summary)
    done.write_text(done.read_text().replace("0.75", "0.5"))
    result = store(done)
    assert (result.exit_code, "is not from a stored summary" in result.stderr) == (2, True)


def test_every_stored_summary_shows_the_sweep_beside_it():
    assert {str(path): problems(path) for path in stored_summaries()} == {str(path): [] for path in stored_summaries()}


def test_the_page_on_sweeps_quotes_the_stored_table():
    page = (NOTEBOOKS / "sweeps" / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(NOTEBOOKS / "sweeps" / "guidance_sampler.csv")

    def fid(row: pd.Series) -> str:
        return f"{row.fid:.2f} ({row.fid_low:.2f} to {row.fid_high:.2f})"

    for (sampler, steps), runs in table.groupby(["sampler", "steps"]):
        by_weight = runs.set_index("guidance_weight", drop=False)
        best = by_weight.loc[by_weight.fid.idxmin()]
        cells = [f"`{sampler}`, {steps}", fid(by_weight.loc[0]), fid(best), f"{best.guidance_weight:g}"]
        assert f"| {' | '.join([*cells, fid(by_weight.loc[4])])} |" in page
