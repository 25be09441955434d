"""The sliders of notebooks 04, 05, 06 and 08, which sample from a network, and the blind test, in the real JupyterLab.

Keyboard and drag give the library's own pictures. Each notebook runs from top to bottom with the smoke profile's
parameters; the blind test, whose pairs are drawn from many samples, has a notebook of its own. Screenshots are left in
runs/browser, for people to look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live import (
    NARROW,
    SECONDS,
    SHOTS,
    WIDE,
    Live,
    look,
    notebook_of,
    opened,
    place,
    result,
    run_all,
    sliders,
    smoke,
    source,
)
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.timeout(1200)  # seconds: four whole notebooks run before the first test

SETUP = """import copy
from functools import partial

import torch
from torch import nn

from ddpm_lib import model_widgets, pretrained, samplers
from ddpm_lib.data import CLASS_NAMES
from ddpm_lib.samplers import ancestral, ddim, dpm_solver

models = pretrained
schedule, epochs, labels = models.schedule("cfg_ema"), models.epochs("cfg"), torch.arange(10)


def mixture(a, b, share_of_b):
    mixed = copy.deepcopy(a)
    for parameter, other in zip(mixed.parameters(), b.parameters(), strict=True):
        parameter.data.lerp_(other.data, share_of_b)
    return mixed


None"""
CELLS = {  # widget: its notebook, its cell
    "denoising": ("04_basic_training", "04-slider-denoising"),
    "guidance": ("05_classifier_free_guidance", "05-slider-guidance"),
    "averages": ("06_ema", "06-slider-averages"),
    "race": ("08_fewer_steps", "08-race-slider"),
}
BLIND_TEST = """from ddpm_lib.blind_test import BlindTest, Source
from ddpm_lib.evaluation import Interval


def grey(name, low, fid):
    shades = torch.linspace(low, low + 1, 12)
    return Source(name, shades[:, None, None, None].expand(-1, 1, 28, 28), Interval(fid, fid - 0.1, fid + 0.1))


BlindTest([grey("dark", -1, 9.0), grey("bright", 0, 1.0)], count=3)"""


@pytest.fixture(scope="module")
def pages(browser: Browser, lab: tuple[Path, str]) -> Iterator[dict[str, Page]]:
    """Each widget's notebook in a page of its own, run."""
    with ExitStack() as open_pages:
        pages = {}
        for widget, (name, _) in CELLS.items():
            pages[widget] = open_pages.enter_context(opened(browser, *lab, name, smoke(name)))
            run_all(pages[widget])
        yield pages


@pytest.fixture(scope="module")
def page(browser: Browser, lab: tuple[Path, str]) -> Iterator[Page]:
    """The blind test."""
    with opened(browser, *lab, "blind_test", notebook_of(SETUP, BLIND_TEST)) as page:
        run_all(page)
        yield page


@pytest.fixture(scope="module")
def scope() -> dict[str, Any]:
    """The names that the cells know, here."""
    scope: dict[str, Any] = {}
    result(SETUP, scope)
    return scope


@pytest.fixture(scope="module")
def widgets(pages: dict[str, Page], scope: dict[str, Any]) -> dict[str, Live]:
    return {
        widget: Live(pages[widget], result(source(cell), scope), f"model_widgets.{widget}(")
        for widget, (_, cell) in CELLS.items()
    }


@pytest.fixture(scope="module")
def denoising(widgets: dict[str, Live]) -> Live:
    return widgets["denoising"]


@pytest.fixture(scope="module")
def guidance(widgets: dict[str, Live]) -> Live:
    return widgets["guidance"]


@pytest.mark.parametrize("name", ["denoising", "race"])
def test_the_keyboard_walks_through_a_sampling_forward_and_back(widgets: dict[str, Live], name: str):
    live = widgets[name]
    last = live.twin.controls["step"].max
    live.press("step", "Home")
    live.expects(step=1)
    live.press("step", "ArrowRight")
    live.expects(step=2)
    expect(live.handle("step")).to_be_focused()
    live.press_button("one step on")
    live.expects(step=3)
    live.press("step", "End")
    live.expects(step=last)
    live.press_button("one step back")
    live.expects(step=last - 1)
    live.press("seed", "ArrowRight")
    live.expects(seed=live.values["seed"] + 1)


def test_the_keyboard_moves_every_slider_of_guidance(guidance: Live):
    guidance.press("w", "Home")
    guidance.expects(w=-1.0)
    guidance.press("w", "End")
    guidance.expects(w=8.0)
    guidance.press("other_w", "ArrowRight")
    guidance.expects(other_w=guidance.values["other_w"] + 0.5)
    guidance.press("label", "Home", "ArrowRight")
    guidance.expects(label=1)
    guidance.press("steps", "Home")
    guidance.expects(steps=2)
    guidance.press("seed", "Home", *["ArrowRight"] * 5)  # faster than it can be drawn: only the last one counts
    guidance.expects(seed=5)


def test_the_keyboard_moves_every_control_of_averages(widgets: dict[str, Live]):
    averages = widgets["averages"]
    averages.press("moment", "Home")
    averages.expects(moment=averages.twin.positions[0])
    averages.press_button("mean so far")
    averages.expects(average="mean so far")
    averages.press("moment", "End")
    averages.expects(moment=averages.twin.positions[-1])
    averages.press("seed", "ArrowRight")
    averages.expects(seed=averages.values["seed"] + 1)


@pytest.mark.parametrize("name", CELLS)
def test_every_slider_can_be_dragged(widgets: dict[str, Live], name: str):
    widgets[name].every_slider_can_be_dragged()


def test_a_cell_runs_while_guided_samples_are_still_being_drawn(guidance: Live):
    guidance.press("steps", "End")
    for seed in (1, 2, 3):  # new noise; other work on this machine may hold an answer up, but not three times
        guidance.press("w", "Home")
        guidance.press("seed", "Home", *["ArrowRight"] * seed)
        guidance.expects(w=-1.0, seed=seed, steps=25)
        guidance.box.evaluate(WATCH)
        w = guidance.drag("w", to=0.97)
        guidance.page.evaluate(RUN_A_CELL)
        guidance.expects(w=w)
        assert w >= 7
        guidance.page.wait_for_function("() => window.answered")
        answered, pictures = guidance.page.evaluate("() => [window.answered, window.pictures]")
        if answered < pictures[-1]:
            return
    pytest.fail(f"a cell was not run before {answered} ms, the last of the pictures was there at {pictures}")


WATCH = """box => {
    window.answered = null; window.pictures = []; window.watch?.disconnect();
    window.watch = new MutationObserver(() => window.pictures.push(performance.now()));
    window.watch.observe(box.querySelector('.widget-html-content:has(figure)'), {childList: true, subtree: true});
}"""
RUN_A_CELL = """() => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    kernel.requestExecute({code: 'pass', silent: true}).done.then(() => { window.answered = performance.now(); });
}"""


def test_the_blind_test_asks_by_keyboard_and_counts_like_the_library(page: Page, scope: dict[str, Any]):
    twin, box = result(BLIND_TEST, scope), place(page, "BlindTest(")

    def shows_the_librarys() -> None:
        (picture,) = re.findall(r'src="([^"]+)"', twin.box.children[1].value)
        expect(box.locator("figure img")).to_have_attribute("src", picture, timeout=SECONDS)

    def press(button: str) -> None:
        box.get_by_role("button", name=button).focus()
        page.keyboard.press("Enter")

    shows_the_librarys()
    for button, answer in (("A is better", "A"), ("I cannot tell", "=")):
        press(button)
        twin.answer(answer)
        shows_the_librarys()
    press("back")
    twin.box.children[0].children[-1].click()
    shows_the_librarys()
    for button, answer in (("B is better", "B"), ("A is better", "A")):
        press(button)
        twin.answer(answer)
    score = twin.score()
    told = box.get_by_role("status")
    expect(told).to_contain_text(f"agree in {score.agreed} of the {score.decided} pairs", timeout=SECONDS)
    assert told.locator("tr").count() == 1 + len(twin.pairs)
    expect(box.get_by_role("button", name="A is better")).to_be_disabled()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_nothing_is_cut_off(page: Page, widgets: dict[str, Live], theme: str, width: int):
    for name, live in widgets.items():
        look(live.page, theme, width)
        live.box.scroll_into_view_if_needed()
        live.page.screenshot(path=SHOTS / f"{name}_{theme.lower()}_{width}.png")
        live.nothing_is_cut_off()
    look(page, theme, width)
    place(page, "BlindTest(")
    page.screenshot(path=SHOTS / f"blind_test_{theme.lower()}_{width}.png")


def test_no_page_reports_an_error(page: Page, pages: dict[str, Page], widgets: dict[str, Live]):
    assert {name: one.troubles for name, one in {"blind test": page, **pages}.items() if one.troubles} == {}


def test_no_slider_of_the_course_is_left_out():
    in_test_sliders = {"01-slider-noising", "02-slider-schedule", "02-slider-embedding"}
    assert set(sliders()) == in_test_sliders | {cell for _, cell in CELLS.values()}
