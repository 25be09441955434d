"""The notebooks that are there to be swept run, and record what their sweeps draw."""

from __future__ import annotations

import math
from pathlib import Path

import nbformat
import pytest

from ddpm_lib.batch import NOTEBOOKS, check_parameters
from ddpm_lib.execution import execute
from ddpm_lib.results import recorded

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


def test_every_notebook_is_tried():
    assert {path.stem for path in (NOTEBOOKS / "sweeps").glob("*.ipynb")} == set(QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_a_notebook_for_sweeps_runs_and_records(name: str, tmp_path: Path):
    notebook = NOTEBOOKS / "sweeps" / f"{name}.ipynb"
    parameters, names = QUICK[name]
    check_parameters(notebook, parameters)
    assert execute(notebook, tmp_path / "copy.ipynb", parameters) is None
    results = recorded(nbformat.read(tmp_path / "copy.ipynb", as_version=4))
    assert set(results) == names
    assert all(math.isfinite(value) for value in results.values())
