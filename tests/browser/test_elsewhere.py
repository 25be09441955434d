"""The sliders elsewhere: in Notebook 7, in Voila, and stored, where no kernel runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from live import MINUTES, NARROW, SECONDS, SHOTS, WIDE, Live, notebook_of, opened, result, run_all, sliders
from playwright.sync_api import Browser, Page, expect

from ddpm_lib.live import Explorer

CELL = """import torch
from ddpm_lib import widgets
from ddpm_lib.schedules import linear_schedule
images = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
widgets.noising(images, ["dark", "bright"], linear_schedule())"""
IN_LAB = "/lab/workspaces/{0}/tree/"


@pytest.fixture
def twin() -> Explorer:
    return result(CELL, {})


def works(live: Live, name: str) -> None:
    """Keyboard and drag give the library's pictures, and nothing is cut off."""
    live.press("t", "ArrowRight")
    live.expects(t=live.values["t"] + 1)
    live.press("image", "End")
    live.expects(image=1)
    live.expects(t=live.drag("t", to=0.8))
    for width in (NARROW, WIDE):
        live.page.set_viewport_size({"width": width, "height": 900})
        live.nothing_is_cut_off()
        live.page.screenshot(path=SHOTS / f"{name}_{width}.png")


def test_it_works_in_notebook_7(browser: Browser, lab: tuple[Path, str], twin: Explorer):
    folder, address = lab
    address = address.replace(IN_LAB, "/notebooks/")
    with opened(browser, folder, address, "elsewhere", notebook_of(CELL)) as page:
        run_all(page)
        works(Live(page, twin), "notebook_7")


def test_it_works_in_voila(browser: Browser, lab: tuple[Path, str], twin: Explorer):
    folder, address = lab
    nbformat.write(notebook_of(CELL), folder / "voila.ipynb")
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.goto(address.replace(IN_LAB, "/voila/render/").format("voila"), timeout=MINUTES)
    page.wait_for_selector(".widget-vbox figure img", timeout=MINUTES)
    works(Live(page, twin), "voila")
    page.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that notes what it asks the network for."""
    page = browser.new_page(viewport={"width": NARROW, "height": 500}, color_scheme="dark")
    page.set_default_timeout(SECONDS)
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    page.close()


@pytest.mark.parametrize("cell_id", sliders())
def test_without_a_kernel_the_stored_output_is_a_slider_over_frames(page: Page, cell_id: str):
    dark = "<body style='background:#111;color:#eee;font-family:sans-serif'>"
    page.set_content(f"<!doctype html><html lang=en><title>stored</title>{dark}{sliders()[cell_id]}")
    slider, image = page.get_by_role("slider"), page.locator("img")
    expect(slider).to_be_visible()
    slider.focus()
    seen = []
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        seen.append((image.get_attribute("src"), image.get_attribute("alt"), page.locator("output").inner_text()))
        assert slider.get_attribute("aria-valuetext") == page.locator("b").inner_text()
    assert len(set(seen)) == 3
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("image => image.naturalWidth") > 400
    page.screenshot(path=SHOTS / f"{cell_id}_still_dark.png")
    assert [url for url in page.requests if not url.startswith("data:")] == []
