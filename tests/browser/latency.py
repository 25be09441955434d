"""How long the guidance slider takes, from the key to the picture in the browser: part of `make bench`.

Ten guided images of the report's network, in the real JupyterLab. Each key asks for a weight that was not seen before.
Writes runs/bench/latency.{json,md}.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import torch
import typer
from lab import chromium, command, jupyterlab, open_notebook
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page

from ddpm_lib.machine import cpu_name

# Fresh weights will do: the time does not depend on them.
CELL = """import torch
from ddpm_lib.data import CLASS_NAMES
from ddpm_lib.model_widgets import guidance
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.unet import UNet
torch.manual_seed(0)
guidance(UNet(num_classes=10).eval(), linear_schedule(), CLASS_NAMES)"""
WATCH = """box => {
    window.keys = []; window.pictures = [];
    document.addEventListener('keydown', () => window.keys.push(performance.now()), true);
    new MutationObserver(async () => {
        const image = box.querySelector('figure img');
        await image.decode();
        await new Promise(requestAnimationFrame);
        window.pictures.push(performance.now());
    }).observe(box.querySelector('.widget-html-content:has(figure)'), {childList: true, subtree: true});
}"""
LONGEST = 1500  # milliseconds from a key to its last picture, waited for
WEIGHTS = 19  # stops of the slider


def main(
    passes: int = typer.Option(2, help="How often the slider is moved over its range."), out: Path = Path("runs/bench")
) -> None:
    """Move the slider key by key and write what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        notebook = new_notebook(cells=[new_code_cell(CELL)], metadata={"kernelspec": kernel})
        nbformat.write(notebook, Path(folder) / "latency.ipynb")
        with jupyterlab(Path(folder)) as address, chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            open_notebook(page, address.format("latency"))
            command(page, "notebook:run-all-cells")
            first, last = measure(page, passes)
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    rows = {"first look": first, "full picture": last}
    out.mkdir(parents=True, exist_ok=True)
    (out / "latency.json").write_text(json.dumps({"machine": machine, "milliseconds": rows}, indent=1))
    (out / "latency.md").write_text(table(rows, machine))
    typer.echo((out / "latency.md").read_text())


def measure(page: Page, passes: int) -> tuple[list[float], list[float]]:
    """Milliseconds from each key to its first and to its last picture."""
    box = page.locator(".jp-OutputArea-output .widget-vbox").first
    w, seed = (handle(page, name) for name in ("w", "seed"))
    page.evaluate(WATCH, box.element_handle())
    first, last = [], []
    for number in range(passes):
        press(page, seed, "ArrowRight")  # new noise: nothing is kept from before
        press(page, w, "End" if number % 2 else "Home")
        for _ in range(WEIGHTS - 1):
            pictures = press(page, w, "ArrowLeft" if number % 2 else "ArrowRight")
            first.append(pictures[0])
            last.append(pictures[-1])
    return first, last


def handle(page: Page, name: str):
    row = page.locator(".widget-inline-hbox").filter(has=page.locator(f".widget-label:text-is('{name}')"))
    return row.locator('[role="slider"]')


def press(page: Page, slider, key: str) -> list[float]:
    """When the pictures came that a key brought, in milliseconds; waits until they have all come."""
    slider.focus()
    page.evaluate("() => { window.keys = []; window.pictures = []; }")
    page.keyboard.press(key)
    page.wait_for_timeout(LONGEST)
    return page.evaluate("window.pictures.map(time => time - window.keys[0])")


def table(rows: dict[str, list[float]], machine: str) -> str:
    lines = [
        f"{machine}; guidance slider, ten images; {len(rows['full picture'])} keys in Chromium",
        "",
        "| from the key to | median | 95th percentile |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {np.median(times):.0f} ms | {np.percentile(times, 95):.0f} ms |" for name, times in rows.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
