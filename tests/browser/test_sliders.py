"""The sliders in the real JupyterLab: keyboard and drag, compared with the library's own pictures.

One JupyterLab and one browser for all. Screenshots are left in runs/browser, for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from live import NARROW, SECONDS, SHOTS, WIDE, Live, look, opened, run_all, smoke
from playwright.sync_api import Browser, Page, expect

from ddpm_lib import widgets
from ddpm_lib.data import CLASS_NAMES, load_fashion_mnist
from ddpm_lib.schedules import linear_schedule

NAMES = ("01_forward_noising", "02_schedule_and_embedding")


@pytest.fixture(scope="module")
def pages(browser: Browser, lab: tuple[Path, str]) -> Iterator[dict[str, Page]]:
    """Each notebook in a page of its own, run from top to bottom with the smoke profile's parameters."""
    with ExitStack() as open_pages:
        pages = {name: open_pages.enter_context(opened(browser, *lab, name, smoke(name))) for name in NAMES}
        pages[NAMES[0]].before = untouched(pages[NAMES[0]])
        for page in pages.values():
            run_all(page)
        yield pages


def untouched(page: Page) -> dict[str, Any]:
    """What the page shows of a slider before anything is run."""
    picture = page.locator("figure img")
    picture.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "01_not_trusted.png")
    return {
        "width": picture.evaluate("image => image.naturalWidth"),
        "alt": picture.get_attribute("alt"),
        "sliders": page.locator("figure input").filter(visible=True).count(),
    }


def garments(classes: list[int]) -> torch.Tensor:
    images, labels = load_fashion_mnist("test")
    return torch.stack([images[labels == c][3] for c in classes])


@pytest.fixture(scope="module")
def noising(pages: dict[str, Page]) -> Live:
    classes = [1, 3, 5, 8, 9]
    twin = widgets.noising(garments(classes), [CLASS_NAMES[c] for c in classes], linear_schedule())
    return Live(pages[NAMES[0]], twin, "widgets.noising(")


@pytest.fixture(scope="module")
def schedules(pages: dict[str, Page]) -> Live:
    return Live(pages[NAMES[1]], widgets.schedules(garments([8, 9])), "widgets.schedules(")


@pytest.fixture(scope="module")
def embedding(pages: dict[str, Page]) -> Live:
    return Live(pages[NAMES[1]], widgets.embedding(), "widgets.embedding(")


def test_a_notebook_that_is_not_trusted_has_the_picture_and_no_dead_slider(pages: dict[str, Page]):
    before = pages[NAMES[0]].before
    assert before["width"] > 500
    assert "clean and at t = 300" in before["alt"]
    assert before["sliders"] == 0


def test_the_keyboard_moves_every_slider_of_noising_and_the_picture_is_the_librarys(noising: Live):
    noising.press("t", "ArrowRight")
    noising.expects(t=noising.values["t"] + 1)
    noising.press("t", "Home")
    noising.expects(t=0)
    noising.press("t", "End")
    noising.expects(t=999)
    expect(noising.handle("t")).to_be_focused()
    noising.page.keyboard.press("Tab")  # on to the read-out, in which a number can be typed
    noising.page.keyboard.press("Control+a")
    noising.page.keyboard.type("250")
    noising.page.keyboard.press("Enter")
    noising.expects(t=250)
    noising.press("seed", "ArrowRight")
    noising.expects(seed=noising.values["seed"] + 1)
    noising.press("image", "End")
    noising.expects(image=4)


def test_a_drag_shows_pictures_on_its_way_and_ends_with_the_librarys(noising: Live):
    noising.page.evaluate(COUNT_PICTURES, noising.box.element_handle())
    t = noising.drag("t", to=0.95)
    on_the_way = noising.page.evaluate("window.pictures")
    assert 930 < t < 970
    noising.expects(t=t)
    assert on_the_way >= 3


@pytest.mark.parametrize("widget", ["noising", "schedules", "embedding"])
def test_every_slider_can_be_dragged(request: pytest.FixtureRequest, widget: str):
    request.getfixturevalue(widget).every_slider_can_be_dragged()


COUNT_PICTURES = """box => {
    window.pictures = 0;
    new MutationObserver(() => window.pictures++).observe(box, {childList: true, subtree: true});
}"""


def resting(live: Live, name: str) -> int:
    """The value that a slider's read-out shows once it no longer changes: a busy page is late to see a key."""
    readout, before = live.control(name).locator(".widget-readout"), ""
    while (now := readout.inner_text()) != before:
        before = now
        live.page.wait_for_timeout(1000)
    return int(now)


def test_play_moves_time_and_pause_stops_it(noising: Live):
    noising.press("t", "Home")
    noising.expects(t=0)
    play = noising.box.get_by_role("button", name="play")
    play.focus()
    noising.page.keyboard.press("Enter")
    expect(noising.box.locator("figcaption")).not_to_contain_text("t = 0:", timeout=SECONDS)
    noising.page.wait_for_timeout(500)
    noising.page.keyboard.press("Enter")
    t = resting(noising, "t")
    assert t > 10
    assert t % 10 == 0
    noising.expects(t=t)


def test_the_keyboard_moves_every_slider_of_schedules(schedules: Live):
    schedules.press("T", "ArrowLeft")
    schedules.expects(T=schedules.values["T"] - 10)
    schedules.press("beta_start", "Home")
    schedules.expects(beta_start=1e-5)
    schedules.press("beta_end", "Home")
    schedules.expects(beta_end=1e-3)
    schedules.press_button("cosine")
    schedules.expects(kind="cosine")
    expect(schedules.control("beta_end").locator(".slider")).to_have_attribute("disabled", "true")
    schedules.press_button("linear")
    schedules.expects(kind="linear")


def test_an_impossible_schedule_is_refused_in_words(schedules: Live):
    schedules.press("beta_end", "End")
    expect(schedules.box.get_by_role("alert")).to_contain_text("every beta must lie inside (0, 1)", timeout=SECONDS)
    schedules.page.screenshot(path=SHOTS / "02_refused.png")
    schedules.press("beta_end", "Home")
    schedules.expects(beta_end=1e-3)
    expect(schedules.box.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_moves_every_slider_of_embedding(embedding: Live):
    embedding.press("t", "ArrowLeft")
    embedding.expects(t=embedding.values["t"] - 1)
    embedding.press("width", "Home")
    embedding.expects(width=2)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_nothing_is_cut_off(noising: Live, schedules: Live, embedding: Live, theme: str, width: int):
    for name, live in {"noising": noising, "schedules": schedules, "embedding": embedding}.items():
        look(live.page, theme, width)
        live.box.scroll_into_view_if_needed()
        live.page.screenshot(path=SHOTS / f"{name}_{theme.lower()}_{width}.png")
        live.nothing_is_cut_off()


def test_the_pages_report_no_error(pages: dict[str, Page]):
    assert {name: page.troubles for name, page in pages.items()} == {name: [] for name in pages}
