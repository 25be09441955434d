"""How long the book's demo takes, from the click on Draw to the last of its steps: part of `make bench`.

Eight guided pictures, in the built page and a real browser. Each round opens the page anew, nothing kept from before.
Writes runs/bench/demo.{json,md}.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer
from lab import served
from playwright.sync_api import Browser, Page

from ddpm_lib.browser import chromium
from ddpm_lib.machine import cpu_name

BOOK = Path(__file__).parents[2] / "book" / "_build" / "html"
WATCH = """() => {
    document.addEventListener("click", () => window.clicked = performance.now(), true);
    document.addEventListener("step", ({detail: {index, steps}}) => {
        if (index === steps) requestAnimationFrame(() => window.drawn = performance.now());
    });
}"""
LIMIT = 60_000  # milliseconds
GOAL = 2.0  # seconds


def main(rounds: int = typer.Option(5, min=1, help="How often the page is opened."), out: Path = Path("runs/bench")):
    """Draw with the demo as it stands, and write what was measured."""
    times = {"first click, the controls reached for before": [], "first click, at once": [], "later click": []}
    with served(BOOK) as address, chromium() as browser:
        for _ in range(rounds):
            for found, one in zip(times.values(), one_round(browser, address), strict=True):
                found.append(one)
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo.json").write_text(json.dumps({"machine": cpu_name(), "seconds": times}, indent=1))
    (out / "demo.md").write_text(table(times))
    typer.echo((out / "demo.md").read_text())


def one_round(browser: Browser, address: str) -> tuple[float, float, float]:
    """Seconds of a first click that was prepared for, of one that was not, and of a later one."""
    with browser.new_context() as context:
        page = opened(context.new_page(), address)
        page.locator("#label").hover()
        page.get_by_text("The model is loaded.").wait_for(timeout=LIMIT)
        prepared = click(page)
        page.evaluate("document.getElementById('seed').value = 1")
        later = click(page)
    with browser.new_context() as context:
        at_once = click(opened(context.new_page(), address))
    return prepared, at_once, later


def opened(page: Page, address: str) -> Page:
    page.goto(address + "demo/index.html")
    page.locator("#label option").last.wait_for(state="attached")
    page.evaluate(WATCH)
    return page


def click(page: Page) -> float:
    """Seconds from a click on Draw, which needs no movement there, to the picture of the last step."""
    page.evaluate("window.drawn = null; document.querySelector('#controls button').click()")
    page.wait_for_function("window.drawn", timeout=LIMIT)
    return page.evaluate("window.drawn - window.clicked") / 1000


def table(times: dict[str, list[float]]) -> str:
    lines = [
        f"{cpu_name()}, one thread; eight guided pictures; median (least to most) of {len(times['later click'])}",
        "",
    ]
    lines += ["| | from the click to the last step |", "|---|---|"]
    lines += [f"| {name} | {np.median(one):.1f} s ({min(one):.1f} to {max(one):.1f}) |" for name, one in times.items()]
    return "\n".join([*lines, "", f"The goal is {GOAL:g} s."]) + "\n"


if __name__ == "__main__":
    typer.run(main)
