"""Table 1 as notebook 07 and the README show it follows from the shipped records; counted here from the JSON itself."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from ddpm_lib import pretrained
from ddpm_lib.table1 import BAR_EPOCH, REPORT, quality_curve, reached, to_markdown

ROOT = Path(__file__).parents[1]
W = 1.0  # the notebook's default
VARIANTS = {
    "Basic": ("basic", "raw", 0.0),
    "Basic + EMA": ("basic", "ema", 0.0),
    "Basic + CFG": ("cfg", "raw", W),
    "Basic + CFG + EMA": ("cfg", "ema", W),
}


def fids(recipe: str, weights: str, w: float) -> list[dict[str, float]]:
    """value, low, high of FID after epochs 1 … 20."""
    lines = (pretrained.FOLDER / f"{recipe}_records.jsonl").read_text(encoding="utf-8").splitlines()
    found = {
        line["epoch"]: line["evaluation"]["fid"]
        for line in map(json.loads, lines)
        if line["weights"] == weights and line["evaluation"]["guidance_weight"] == w
    }
    return [found[float(epoch)] for epoch in range(1, 21)]


def count(curve: list[dict[str, float]], bar: dict[str, float]) -> list[str]:
    """The table's last three cells: first, interval, for good."""

    def first(true: list[bool]) -> str:
        return str(true.index(True) + 1) if True in true else "never"

    under = [one["value"] <= bar["value"] for one in curve]
    rising = "never" if not under[-1] else str(max((i for i, one in enumerate(under, 2) if not one), default=1))
    touched = [one["low"] <= bar["high"] for one in curve]
    surely = [one["high"] <= bar["low"] for one in curve]
    return [first(under), f"{first(touched)} … {first(surely)}", rising]


@pytest.fixture(scope="module")
def rows() -> list[str]:
    bar = fids(*VARIANTS["Basic"])[BAR_EPOCH - 1]
    return [
        f"| {' | '.join([name, str(REPORT.get(name, '–')), *count(fids(*source), bar)])} |"
        for name, source in VARIANTS.items()
    ]


def test_the_library_counts_the_same_epochs(rows: list[str]):
    models = {"raw": "", "ema": "_ema"}
    curves = {
        name: quality_curve(pretrained.records(recipe + models[weights]), w)
        for name, (recipe, weights, w) in VARIANTS.items()
    }
    table = {name: reached(curve, curves["Basic"][BAR_EPOCH]) for name, curve in curves.items()}
    assert to_markdown(table).splitlines()[2:] == rows


def test_the_notebook_shows_them(rows: list[str]):
    notebook = nbformat.read(ROOT / "notebooks" / "07_experiments.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if cell["id"] == "07-table-print"]
    assert cell.outputs[0].data["text/markdown"].splitlines()[2:] == rows


def test_the_readme_shows_them(rows: list[str]):
    assert "\n".join(rows) in (ROOT / "README.md").read_text(encoding="utf-8")
