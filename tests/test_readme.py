"""The README shows and names what is there."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_and_picture_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


def test_every_notebook_is_in_the_table():
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    assert [name for name in notebooks if f"(notebooks/{name})" not in README] == []


def stored(name: str, cell_id: str, kind: str) -> list[Any]:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    cell = next(cell for cell in notebook.cells if cell["id"] == cell_id)
    return [output.data[kind] for output in cell.outputs if "data" in output]


def test_the_picture_is_the_one_stored_in_notebook_05():
    pictures = map(base64.b64decode, stored("05_classifier_free_guidance", "05-grid-picture", "image/png"))
    assert (ROOT / "ddpm_lib" / "pretrained" / "guidance_grid.png").read_bytes() in pictures


@pytest.mark.parametrize(
    ("cell_id", "names"),
    [
        ("07-figure2-picture", ["figure_2"]),
        ("07-figures-pictures", ["figure_3", "figure_4", "figure_5"]),
        ("07-curves-picture", ["quality_curves"]),
    ],
)
def test_the_figures_are_those_stored_in_notebook_07(cell_id: str, names: list[str]):
    pictures = list(map(base64.b64decode, stored("07_experiments", cell_id, "image/png")))
    assert [(ROOT / "book" / "_static" / f"{name}.png").read_bytes() for name in names] == pictures
    assert all(f"(book/_static/{name}.png)" in README for name in names)


def test_the_film_shows_the_pictures_of_the_slider_stored_in_notebook_05():
    (page,) = stored("05_classifier_free_guidance", "05-slider-guidance", "text/html")
    table = json.loads(html.unescape(re.search(r'data-frames="([^"]*)"', page)[1]))
    pictures = {float(value): grey(base64.b64decode(source.split(",")[1])) for value, _, _, source in table}
    film = Image.open(ROOT / "ddpm_lib" / "pretrained" / "guidance_slider.gif")
    frames = {}
    for w in pictures:
        film.seek(round(2 * (w + 1)))  # from -1 on, half by half
        frames[w] = np.asarray(film.convert("L"), dtype=float)
    height, width = pictures[0.0].shape
    places = [(y, x) for y in range(frames[0.0].shape[0] - height + 1) for x in range(8)]

    def apart(frame: float, picture: float, y: int, x: int) -> float:
        return np.abs(frames[frame][y : y + height, x : x + width] - pictures[picture]).mean()

    where = min(places, key=lambda place: apart(0.0, 0.0, *place))
    for w in pictures:
        assert apart(w, w, *where) < 2, "film it anew: python tests/browser/film.py"  # both are drawn with few greys
        assert min(pictures, key=lambda other: apart(w, other, *where)) == w


def grey(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float)
