"""The sliders in the real JupyterLab: keyboard and drag, compared with the library's own pictures.

One JupyterLab and one browser for all. Screenshots are left in runs/browser, for people to look at.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
import torch
from ipywidgets import ToggleButtons
from lab import command, jupyterlab, note_troubles, open_notebook
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page, expect

from ddpm_lib import model_widgets, widgets
from ddpm_lib.batch import NOTEBOOKS, RUNS, load_profile
from ddpm_lib.data import CLASS_NAMES, load_fashion_mnist
from ddpm_lib.live import Explorer
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.unet import UNet

SHOTS = RUNS / "browser"
NAMES = ("01_forward_noising", "02_schedule_and_embedding")
GUIDANCE = """import torch
from ddpm_lib import model_widgets
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.unet import UNet
torch.manual_seed(0)
model_widgets.guidance(UNet(num_classes=3).eval(), linear_schedule(), ["bag", "boot", "coat"], n=4)"""
SECONDS = 30_000  # in milliseconds: what a picture may take on a slow machine
FIRST = 120_000  # and a whole notebook, beside other tests
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ran = true }) }"


@pytest.fixture(scope="module")
def pages(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    """Each notebook in a page of its own, run from top to bottom with the smoke profile's parameters."""
    folder = tmp_path_factory.mktemp("notebooks")
    profile = load_profile("smoke")
    for name in NAMES:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
        settings = "\n".join(f"{key} = {value!r}" for key, value in profile[name].items())
        notebook.cells.insert(place + 1, new_code_cell(settings))
        nbformat.write(notebook, folder / f"{name}.ipynb")
    kernel = notebook.metadata.kernelspec
    small = new_notebook(cells=[new_code_cell(GUIDANCE)], metadata={"kernelspec": kernel})
    nbformat.write(small, folder / "guidance.ipynb")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with jupyterlab(folder) as address:
        opened = {}
        for name in (*NAMES, "guidance"):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            note_troubles(page)
            open_notebook(page, address.format(name))
            opened[name] = page
        opened[NAMES[0]].before = untouched(opened[NAMES[0]])
        for page in opened.values():  # one after the other: side by side they sometimes never end
            page.evaluate(RUN_ALL)
            page.wait_for_function("() => window.ran", timeout=FIRST, polling=200)
        yield opened


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


class Live:
    """A widget in the page, and the same one here, in the library."""

    def __init__(self, page: Page, code: str, twin: Explorer) -> None:
        self.page, self.twin = page, twin
        self.values = dict(twin.first)
        cell = page.locator(".jp-CodeCell").filter(has=page.locator(".cm-content", has_text=code))
        self.box = cell.locator(".jp-OutputArea-output .widget-vbox").first
        self.box.scroll_into_view_if_needed(timeout=FIRST)

    def control(self, name: str) -> Locator:
        label = self.twin.controls[name].description
        return self.box.locator(".widget-inline-hbox").filter(
            has=self.page.locator(".widget-label", has_text=re.compile(f"^{re.escape(label)}$"))
        )

    def handle(self, name: str) -> Locator:
        return self.control(name).locator('[role="slider"]')

    def expects(self, **values: Any) -> None:
        """Waits until the page shows what the library draws for these values, to the byte."""
        self.values |= values
        expected = self.twin.at(**self.values)
        image, data = self.box.locator("figure img"), base64.b64encode(expected.png).decode()
        expect(self.box.locator("figcaption")).to_have_text(expected.caption, timeout=SECONDS)
        expect(image).to_have_attribute("src", f"data:image/png;base64,{data}", timeout=SECONDS)
        assert image.get_attribute("alt") == expected.alt

    def drag(self, name: str, to: float) -> Any:
        """Drags a slider to a part of its track, slowly; returns the value that its read-out shows."""
        self.handle(name).hover(timeout=SECONDS)  # waits until it rests where the mouse can reach it
        handle, track = self.handle(name).bounding_box(), self.control(name).locator(".slider").bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for part in range(1, 21):
            self.page.mouse.move(x + (track["x"] + track["width"] * to - x) * part / 20, y)
            self.page.wait_for_timeout(40)
        self.page.mouse.up()
        self.page.evaluate("() => new Promise(requestAnimationFrame)")  # the page has seen it
        shown = self.control(name).locator(".widget-readout").inner_text()
        control = self.twin.controls[name]
        return dict(control.options)[shown] if hasattr(control, "options") else int(shown)


def garments(classes: list[int]) -> torch.Tensor:
    images, labels = load_fashion_mnist("test")
    return torch.stack([images[labels == c][3] for c in classes])


@pytest.fixture(scope="module")
def noising(pages: dict[str, Page]) -> Live:
    classes = [1, 3, 5, 8, 9]
    twin = widgets.noising(garments(classes), [CLASS_NAMES[c] for c in classes], linear_schedule())
    return Live(pages[NAMES[0]], "widgets.noising(", twin)


@pytest.fixture(scope="module")
def schedules(pages: dict[str, Page]) -> Live:
    return Live(pages[NAMES[1]], "widgets.schedules(", widgets.schedules(garments([8, 9])))


@pytest.fixture(scope="module")
def embedding(pages: dict[str, Page]) -> Live:
    return Live(pages[NAMES[1]], "widgets.embedding(", widgets.embedding())


def test_a_notebook_that_is_not_trusted_has_the_picture_and_no_dead_slider(pages: dict[str, Page]):
    before = pages[NAMES[0]].before
    assert before["width"] > 500
    assert "clean and at t = 300" in before["alt"]
    assert before["sliders"] == 0


@pytest.fixture(scope="module")
def guidance(pages: dict[str, Page]) -> Live:
    torch.manual_seed(0)
    network = UNet(num_classes=3).eval()
    twin = model_widgets.guidance(network, linear_schedule(), ["bag", "boot", "coat"], n=4)
    return Live(pages["guidance"], "model_widgets.guidance(", twin)


def test_the_keyboard_moves_every_slider_of_noising_and_the_picture_is_the_librarys(noising: Live):
    noising.handle("t").focus()
    noising.page.keyboard.press("ArrowRight")
    noising.expects(t=noising.values["t"] + 1)
    noising.page.keyboard.press("Home")
    noising.expects(t=0)
    noising.page.keyboard.press("End")
    noising.expects(t=999)
    noising.page.keyboard.press("Tab")  # on to the read-out, in which a number can be typed
    noising.page.keyboard.press("Control+a")
    noising.page.keyboard.type("250")
    noising.page.keyboard.press("Enter")
    noising.expects(t=250)
    noising.handle("seed").focus()
    noising.page.keyboard.press("ArrowRight")
    noising.expects(seed=noising.values["seed"] + 1)
    noising.handle("image").focus()
    noising.page.keyboard.press("End")
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
    live = request.getfixturevalue(widget)
    for name, control in live.twin.controls.items():
        if not isinstance(control, ToggleButtons):
            before = live.values[name]
            value = live.drag(name, to=0.6)
            assert value != before
            live.expects(**{name: value})


COUNT_PICTURES = """box => {
    window.pictures = 0;
    new MutationObserver(() => window.pictures++).observe(box, {childList: true, subtree: true});
}"""


def test_a_drag_over_guided_samples_leaves_the_kernel_time_to_answer_and_ends_with_the_librarys(guidance: Live):
    guidance.page.evaluate(ASK_OFTEN)
    w = guidance.drag("w", to=0.9)
    slowest = guidance.page.evaluate("window.slowest")
    assert w >= 6
    guidance.expects(w=w)
    guidance.handle("seed").focus()
    for _ in range(5):  # faster than it can be drawn: only the last one counts
        guidance.page.keyboard.press("ArrowRight")
    guidance.expects(seed=5)
    assert 0 < slowest < 1000


ASK_OFTEN = """() => {
    window.slowest = 0;
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const ask = async () => {
        const start = performance.now();
        await kernel.requestKernelInfo();
        window.slowest = Math.max(window.slowest, performance.now() - start);
        setTimeout(ask, 100);
    };
    ask();
}"""


def test_play_moves_time_and_pause_stops_it(noising: Live):
    noising.handle("t").focus()
    noising.page.keyboard.press("Home")
    noising.expects(t=0)
    play = noising.box.get_by_role("button", name="play")
    play.focus()
    noising.page.keyboard.press("Enter")
    expect(noising.box.locator("figcaption")).not_to_contain_text("t = 0:", timeout=SECONDS)
    noising.page.wait_for_timeout(500)
    noising.page.keyboard.press("Enter")
    noising.page.wait_for_timeout(500)
    t = int(noising.control("t").locator(".widget-readout").inner_text())
    assert t > 10
    assert t % 10 == 0
    noising.expects(t=t)


def test_the_keyboard_moves_every_slider_of_schedules(schedules: Live):
    press = schedules.page.keyboard.press
    schedules.handle("T").focus()
    press("ArrowLeft")
    schedules.expects(T=schedules.values["T"] - 10)
    schedules.handle("beta_start").focus()
    press("Home")
    schedules.expects(beta_start=1e-5)
    schedules.handle("beta_end").focus()
    press("Home")
    schedules.expects(beta_end=1e-3)
    schedules.box.get_by_role("button", name="cosine").focus()
    press("Enter")
    schedules.expects(kind="cosine")
    expect(schedules.control("beta_end").locator(".slider")).to_have_attribute("disabled", "true")
    schedules.box.get_by_role("button", name="linear").focus()
    press("Enter")
    schedules.expects(kind="linear")


def test_an_impossible_schedule_is_refused_in_words(schedules: Live):
    schedules.handle("beta_end").focus()
    schedules.page.keyboard.press("End")
    expect(schedules.box.get_by_role("alert")).to_contain_text("every beta must lie inside (0, 1)", timeout=SECONDS)
    schedules.page.screenshot(path=SHOTS / "02_refused.png")
    schedules.page.keyboard.press("Home")
    schedules.expects(beta_end=1e-3)
    expect(schedules.box.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_moves_every_slider_of_embedding(embedding: Live):
    embedding.handle("t").focus()
    embedding.page.keyboard.press("ArrowLeft")
    embedding.expects(t=embedding.values["t"] - 1)
    embedding.handle("width").focus()
    embedding.page.keyboard.press("Home")
    embedding.expects(width=2)


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_nothing_is_cut_off(noising: Live, schedules: Live, embedding: Live, guidance: Live, theme: str, width: int):
    everything = {"noising": noising, "schedules": schedules, "embedding": embedding, "guidance": guidance}
    for name, live in everything.items():
        live.page.set_viewport_size({"width": width, "height": 900})
        command(live.page, "apputils:change-theme", {"theme": f"JupyterLab {theme}"})
        if (live.page.locator("#jp-left-stack").is_visible()) == (width < 1000):
            command(live.page, "application:toggle-left-area")
        expect(live.page.locator("body")).to_have_attribute("data-jp-theme-light", str(theme == "Light").lower())
        live.box.scroll_into_view_if_needed()
        live.page.wait_for_timeout(300)
        live.page.screenshot(path=SHOTS / f"{name}_{theme.lower()}_{width}.png")
        labels = live.box.locator(".widget-label")
        assert labels.count() >= len(live.twin.controls)
        assert labels.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length") == 0
        image = live.box.locator("figure img").bounding_box()
        area = live.box.bounding_box()
        assert image["x"] + image["width"] <= area["x"] + area["width"] + 1


def test_the_pages_report_no_error(pages: dict[str, Page]):
    assert {name: page.troubles for name, page in pages.items()} == {name: [] for name in pages}


@pytest.fixture
def still(browser: Browser) -> Iterator[Callable[[str], Page]]:
    """A page with one stored output and nothing else; it notes what it asks the network for."""
    page = browser.new_page(viewport={"width": 800, "height": 500}, color_scheme="dark")
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))

    def show(cell_id: str) -> Page:
        notebook = nbformat.read(NOTEBOOKS / f"{next(name for name in NAMES if name[:2] == cell_id[:2])}.ipynb", 4)
        (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
        dark = "<body style='background:#111;color:#eee;font-family:sans-serif'>"
        page.set_content(f"<!doctype html><html lang=en><title>still</title>{dark}{cell.outputs[0].data['text/html']}")
        return page

    yield show
    page.close()


@pytest.mark.parametrize("cell_id", ["01-slider-noising", "02-slider-schedule", "02-slider-embedding"])
def test_without_a_kernel_the_stored_output_is_a_slider_over_frames(still: Callable[[str], Page], cell_id: str):
    page = still(cell_id)
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
    assert image.evaluate("image => image.naturalWidth") > 500
    page.screenshot(path=SHOTS / f"{cell_id}_still_dark.png")
    assert [url for url in page.requests if not url.startswith("data:")] == []
