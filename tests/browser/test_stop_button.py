"""A training in the real JupyterLab: it shows itself, a click saves and stops it, and the same cell goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from lab import jupyterlab, note_troubles, open_notebook
from live import smoke
from playwright.sync_api import Browser, Page, expect

from ddpm_lib.batch import RUNS
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.run_files import STATE

NAME, LAST = "04_basic_training", "04-train-run"
SECONDS = 120_000  # in milliseconds: what a slow, busy machine may take to import torch and draw a picture
PICTURE = "figure:has(img[alt*='ten samples of the averaged weights'])"


@pytest.fixture
def page(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """Notebook 04 up to its training, with the smoke profile's parameters but for more steps, run to the button."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    notebook = smoke(NAME, train_steps=100_000)
    notebook.cells = notebook.cells[: [cell.id for cell in notebook.cells].index(LAST) + 1]
    nbformat.write(notebook, tmp_path / "training.ipynb")
    with jupyterlab(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        note_troubles(page)
        open_notebook(page, address.format("training"))
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells').catch(() => null) }")
        yield page
        page.close()


def stopped_at(page: Page, folder: Path) -> int:
    """Waits for a picture, clicks, waits for the end; gives the step that the newest checkpoint holds."""
    expect(page.locator(PICTURE)).to_be_visible(timeout=SECONDS)
    button = page.get_by_role("button", name="Save and stop")
    button.scroll_into_view_if_needed()
    page.screenshot(path=RUNS / "browser" / "training.png")
    button.click()
    expect(page.get_by_text("stopped and saved")).to_be_visible(timeout=SECONDS)
    error = page.locator(".jp-OutputArea-output", has_text="the same call goes on from there").last
    (step,) = re.findall(r"stopped at step (\d+)", error.inner_text(timeout=SECONDS))
    expect(button).to_have_count(0)
    expect(page.locator(PICTURE)).to_contain_text(f"step {int(step):,} of 100,000")
    (state,) = folder.rglob(STATE)
    assert load_tensors(state)[1]["step"] == int(step)
    return int(step)


def test_a_click_saves_and_stops_a_training_and_the_same_cell_goes_on(page: Page, tmp_path: Path):
    (RUNS / "browser").mkdir(parents=True, exist_ok=True)
    first = stopped_at(page, tmp_path / "cache")
    assert first > 0
    page.locator(".jp-CodeCell").filter(has_text="with training_view()").locator(".cm-content").click()
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell').catch(() => null) }")
    expect(page.get_by_text("stopped and saved")).to_have_count(0, timeout=SECONDS)
    assert stopped_at(page, tmp_path / "cache") > first
    assert page.troubles == []
