"""The README shows and names what is there."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat

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


def test_the_picture_is_the_one_stored_in_notebook_05():
    notebook = nbformat.read(ROOT / "notebooks" / "05_classifier_free_guidance.ipynb", 4)
    cell = next(cell for cell in notebook.cells if cell["id"] == "05-grid-picture")
    stored = [base64.b64decode(output.data["image/png"]) for output in cell.outputs if "data" in output]
    assert (ROOT / "ddpm_lib" / "pretrained" / "guidance_grid.png").read_bytes() in stored
