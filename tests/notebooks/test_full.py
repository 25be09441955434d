"""The branches that only the full profile takes: notebooks 07 to 10 train and measure by themselves, nothing shipped.

Here with few pictures, and with one evaluation, made up, for everything that is measured: what is tried is that the
notebooks run through on what they made themselves.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import rules
from nbformat.v4 import new_code_cell

from ddpm_lib.batch import NOTEBOOKS, load_profile
from ddpm_lib.execution import execute
from ddpm_lib.files import TRAININGS_VARIABLE

MADE_UP = """
from dataclasses import replace
import ddpm_lib.data, ddpm_lib.evaluation

made_up = ddpm_lib.evaluation.evaluate_images(
    ddpm_lib.data.load_fashion_mnist("test", 100).images, torch.arange(100) % 10
)

def shipped(*_, **__):
    raise AssertionError("something shipped was asked for")
"""
TRAINS = """
from ddpm_lib import records as of_records

tiny_split = load_fashion_mnist("train", 32)
RECIPES.update({name: replace(recipe, batch_size=16, ema_start=10) for name, recipe in RECIPES.items()})

def load_fashion_mnist(split, limit=None, real=load_fashion_mnist):
    return tiny_split if limit is None else real(split, limit)

def evaluate_model(model, schedule, n, w, seed=0):
    assert isinstance(model, UNet)
    return replace(made_up, guidance_weight=w, seed=seed, n=n), tiny_split.images

of_records.evaluate_model = evaluate_model
for name in ("load", "records", "samples", "snapshots"):
    setattr(pretrained, name, shipped)
"""
MEASURES = """
from ddpm_lib import studies

real_read = studies._read
studies._read = lambda path: shipped() if path.is_relative_to(pretrained.FOLDER) else real_read(path)
studies.cache_dir = lambda: studies.Path(CACHE)
studies.measure = lambda setting: replace(made_up, n=setting.n, steps=setting.steps or 1000)
"""
# What stands in for hours, and parameters that are smaller than the full profile's, but for the switches.
CASES = {
    "07_experiments": (TRAINS, {"drawn": 10, "checked": 100}),
    "08_fewer_steps": (MEASURES, load_profile("smoke")["08_fewer_steps"]),
    "09_guidance_in_depth": (MEASURES, load_profile("smoke")["09_guidance_in_depth"]),
    "10_ema_in_depth": (TRAINS, {"small_steps": 120, "small_images": 128}),
}


def run_by_itself(name: str, folder: Path) -> Path:
    """Runs a notebook with the full profile's switches; returns its copy."""
    stand_in, smaller = CASES[name]
    switches = {key: value for key, value in load_profile("full")[name].items() if value is True}
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(first + 1, new_code_cell(f"CACHE = {str(folder)!r}\n{MADE_UP}{stand_in}"))
    nbformat.write(notebook, folder / "tiny.ipynb")
    assert execute(folder / "tiny.ipynb", folder / "copy.ipynb", smaller | switches) is None
    return folder / "copy.ipynb"


def printed(notebook: Path) -> str:
    outputs = rules.outputs(nbformat.read(notebook, as_version=4))
    return "".join(output.get("text", "") for _, output in outputs)


@pytest.mark.parametrize(
    ("name", "trainings", "says"),
    [
        ("07_experiments", 2, "epochs measured of each variant: {20}"),
        ("10_ema_in_depth", 1, "(0.05, 20), (0.1, 20)"),
    ],
)
def test_what_the_full_profile_trains_is_what_it_measures(
    name: str, trainings: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(TRAININGS_VARIABLE, str(tmp_path / "trainings"))
    assert says in printed(run_by_itself(name, tmp_path))
    assert len(list((tmp_path / "trainings").glob("*/done.json"))) == trainings


@pytest.mark.parametrize(("name", "series"), [("08_fewer_steps", "fewer_steps"), ("09_guidance_in_depth", "guidance")])
def test_what_the_full_profile_measures_is_not_looked_up(name: str, series: str, tmp_path: Path):
    run_by_itself(name, tmp_path)
    measured = (tmp_path / "studies" / f"{series}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(measured) >= 20
