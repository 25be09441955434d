"""The branches that only the full profile takes: notebooks 03 to 10 train and measure by themselves, nothing shipped.

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

STAND_IN = """
from dataclasses import replace
import ddpm_lib.config, ddpm_lib.data, ddpm_lib.evaluation
from ddpm_lib import records as of_records, studies

tiny_split = ddpm_lib.data.load_fashion_mnist("train", 8)
drawn_by_it = ddpm_lib.data.load_fashion_mnist("train", 32).images
judged, _ = ddpm_lib.data.load_fashion_mnist("test", 100)
made_up = ddpm_lib.evaluation.evaluate_images(judged, torch.arange(100) % 10)
recipes = ddpm_lib.config.RECIPES
recipes.update({name: replace(recipe, batch_size=4, ema_start=10) for name, recipe in recipes.items()})

def evaluate_model(model, schedule, n, w, sampler="dpm_solver", steps=10, seed=0, **_):
    assert not any(parameter.requires_grad for parameter in model.parameters())
    w = w if isinstance(w, float) else 1.0
    return replace(made_up, guidance_weight=w, sampler=sampler, steps=steps, seed=seed, n=n), drawn_by_it

def shipped(*_, **__):
    raise AssertionError("something shipped was asked for")

of_records.evaluate_model = studies.evaluate_model = evaluate_model
studies.noise_floor = lambda *_: made_up
studies.cache_dir = lambda: studies.Path(CACHE)
retrained.load_fashion_mnist = lambda split: tiny_split
fit_cached, trained_here = retrained.fit_cached, set()

def counted(*arguments, **options):
    trained_here.add(folder := fit_cached(*arguments, **options))
    return folder

retrained.fit_cached = counted
for name in ("load", "records", "samples", "schedule", "snapshots", "fingerprint"):
    setattr(pretrained, name, shipped)
pretrained.FOLDER = "no folder of what is shipped"
"""
LAST = 'print("models trained here:", len(trained_here))'
# Parameters that are smaller than the full profile's, but for the switches.
SMALLER = load_profile("smoke") | {
    "07_experiments": {"drawn": 10, "checked": 100},
    "10_ema_in_depth": {"small_steps": 120, "small_images": 128},
}


def run_by_itself(name: str, folder: Path) -> Path:
    """Runs a notebook with the full profile's switches; returns its copy."""
    switches = {key: value for key, value in load_profile("full")[name].items() if value is True}
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(first + 1, new_code_cell(f"CACHE = {str(folder)!r}\n{STAND_IN}"))
    notebook.cells.append(new_code_cell(LAST))
    nbformat.write(notebook, folder / "tiny.ipynb")
    assert execute(folder / "tiny.ipynb", folder / "copy.ipynb", SMALLER[name] | switches) is None
    return folder / "copy.ipynb"


def printed(notebook: Path) -> str:
    outputs = rules.outputs(nbformat.read(notebook, as_version=4))
    return "".join(output.get("text", "") for _, output in outputs)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: what one notebook has trained, the next finds."""
    return tmp_path_factory.mktemp("trainings")


@pytest.mark.parametrize(
    ("name", "models", "series", "settings", "says"),
    [
        ("03_unet", 1, "none", 0, "trained: the same t, the same output: True"),
        ("04_basic_training", 2, "none", 0, "\n   20  "),
        ("05_classifier_free_guidance", 2, "none", 0, "epoch 20: accuracy"),
        ("06_ema", 2, "none", 0, "fast          7   "),
        ("07_experiments", 2, "none", 0, "epochs measured of each variant: {20}"),
        ("08_fewer_steps", 2, "fewer_steps", 20, "evaluations: FID 1.00 of DDPM's"),
        ("09_guidance_in_depth", 1, "guidance", 20, "autoguidance, w = 4"),
        ("10_ema_in_depth", 1, "ema_widths", 16, "(0.05, 20), (0.1, 20)"),
    ],
)
def test_what_the_full_profile_trains_is_what_it_measures(
    name: str,
    models: int,
    series: str,
    settings: int,
    says: str,
    trainings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(TRAININGS_VARIABLE, str(trainings))
    said = printed(run_by_itself(name, tmp_path))
    assert says in said
    assert f"models trained here: {models}\n" in said
    measured = [path.read_text(encoding="utf-8") for path in (tmp_path / "studies").glob(f"{series}.jsonl")]
    assert len("".join(measured).splitlines()) >= settings
