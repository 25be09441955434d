"""A slider in a page of the real JupyterLab beside the same one here, in the library."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from ipywidgets import ToggleButtons
from lab import command, note_troubles, open_notebook
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page, expect

from ddpm_lib.batch import NOTEBOOKS, RUNS, load_profile
from ddpm_lib.live import Explorer

SHOTS = RUNS / "browser"
SECONDS = 30_000  # in milliseconds: what a picture may take on a slow machine
MINUTES = 600_000  # and a whole notebook, beside other tests
WIDE, NARROW = 1280, 800  # pages
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ran = true }) }"
CUT_OFF = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"


def stored_cells() -> dict[str, dict[str, Any]]:
    """Every cell of the course by its id, as it is stored."""
    books = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    return {cell["id"]: cell for book in books for cell in book["cells"]}


def source(cell_id: str) -> str:
    return "".join(stored_cells()[cell_id]["source"])


def sliders() -> dict[str, str]:
    """The stored HTML of every slider of the course, by the id of its cell."""
    outputs = {name: cell.get("outputs", []) for name, cell in stored_cells().items()}
    pages = {name: "".join(all_[0].get("data", {}).get("text/html", "")) for name, all_ in outputs.items() if all_}
    return {name: page for name, page in pages.items() if "data-frames" in page}


def notebook_of(*cells: str) -> NotebookNode:
    return new_notebook(cells=[new_code_cell(code) for code in cells], metadata={"kernelspec": KERNEL})


def result(code: str, scope: dict[str, Any]) -> Any:
    """What a cell gives, run here: the value of its last line."""
    tree = ast.parse(code)
    last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, "cell", "exec"), scope)
    return eval(compile(last, "cell", "eval"), scope)


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def smoke(name: str, **changes: Any) -> NotebookNode:
    """A notebook of the course with the smoke profile's parameters, but for `changes`."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    settings = "\n".join(f"{key} = {value!r}" for key, value in (load_profile("smoke")[name] | changes).items())
    notebook.cells.insert(place + 1, new_code_cell(settings))
    return notebook


@contextmanager
def opened(browser: Browser, folder: Path, address: str, name: str, notebook: NotebookNode) -> Iterator[Page]:
    """A page with a notebook, which has not been run; its kernel is ended with it."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.set_default_timeout(SECONDS)
    note_troubles(page)
    open_notebook(page, address.format(name))
    yield page
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


def run_all(page: Page) -> None:
    """Runs a notebook from top to bottom."""
    page.evaluate(RUN_ALL)
    page.wait_for_function("() => window.ran", timeout=MINUTES, polling=200)


def place(page: Page, code: str | None = None) -> Locator:
    """The widgets below the cell with this code in it; None: the first ones of the page."""
    whole = page.locator("body")
    if code is not None:
        whole = page.locator(".jp-CodeCell").filter(has=page.locator(".cm-content", has_text=code))
    box = whole.locator(".widget-vbox").first
    box.scroll_into_view_if_needed(timeout=MINUTES)
    return box


def look(page: Page, theme: str, width: int) -> None:
    """Sets theme and width of JupyterLab; a narrow one is without its side bar, as a reader would have it."""
    page.set_viewport_size({"width": width, "height": 900})
    command(page, "apputils:change-theme", {"theme": f"JupyterLab {theme}"})
    if page.locator("#jp-left-stack").is_visible() == (width < 1000):
        command(page, "application:toggle-left-area")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", str(theme == "Light").lower())
    page.wait_for_timeout(300)


class Live:
    """A slider in a page whose notebook has been run, and the same one here, in the library."""

    def __init__(self, page: Page, twin: Explorer, code: str | None = None) -> None:
        self.page, self.twin, self.box = page, twin, place(page, code)
        self.values = dict(twin.first)

    def control(self, name: str) -> Locator:
        label = self.twin.controls[name].description
        return self.box.locator(".widget-inline-hbox").filter(
            has=self.page.locator(".widget-label", has_text=re.compile(f"^{re.escape(label)}$"))
        )

    def handle(self, name: str) -> Locator:
        return self.control(name).locator('[role="slider"]')

    def press(self, name: str, *keys: str) -> None:
        """Presses keys on a slider."""
        self.handle(name).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def press_button(self, name: str) -> None:
        self.box.get_by_role("button", name=name).focus()
        self.page.keyboard.press("Enter")

    def expects(self, **values: Any) -> None:
        """Waits until the page shows what the library draws for these values, to the byte."""
        self.values |= values
        expected = self.twin.at(**self.values)
        image = self.box.locator("figure img")
        expect(self.box.locator("figcaption")).to_have_text(expected.caption, timeout=SECONDS)
        expect(image).to_have_attribute("src", data_url(expected.png), timeout=SECONDS)
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

    def every_slider_can_be_dragged(self) -> None:
        """A drag of each slider moves it, and the page shows the library's picture for it."""
        for name, control in self.twin.controls.items():
            if not isinstance(control, ToggleButtons):
                before = self.values[name]
                value = self.drag(name, to=0.6)
                assert value != before
                self.expects(**{name: value})

    def nothing_is_cut_off(self) -> None:
        """Every description is there as a whole, and the picture is no wider than its place."""
        assert self.box.locator(".widget-label").count() >= len(self.twin.controls)
        assert self.box.locator(".widget-label, .widget-readout, button").evaluate_all(CUT_OFF) == []
        image, area = self.box.locator("figure img").bounding_box(), self.box.bounding_box()
        assert image["x"] + image["width"] <= area["x"] + area["width"] + 1
