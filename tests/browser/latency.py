"""How long the guidance slider takes, from the key to the picture in the browser: part of `make bench`.

Ten guided images of the network `fast`, in the real JupyterLab. Each key asks for a weight that was not seen before.
Writes runs/bench/latency.{json,md}.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import typer
from film import WEIGHTS, guidance_slider
from live import SECONDS, Live, data_url

from ddpm_lib.machine import cpu_name

WATCH = """box => {
    window.keys = []; window.pictures = [];
    document.addEventListener('keydown', () => window.keys.push(performance.now()), true);
    new MutationObserver(async () => {
        const image = box.querySelector('figure img');
        await image.decode();
        await new Promise(requestAnimationFrame);
        window.pictures.push([performance.now(), image.src]);
    }).observe(box.querySelector('.widget-html-content:has(figure)'), {childList: true, subtree: true});
}"""
GOAL = {"median": 400, "95th percentile": 800}  # milliseconds to the full picture


def main(
    passes: int = typer.Option(2, help="How often the slider is moved over its range."), out: Path = Path("runs/bench")
) -> None:
    """Move the slider key by key and write what was measured."""
    with guidance_slider() as live:
        first, last = measure(live, passes)
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    rows = {"first look": first, "full picture": last}
    out.mkdir(parents=True, exist_ok=True)
    (out / "latency.json").write_text(json.dumps({"machine": machine, "milliseconds": rows}, indent=1))
    (out / "latency.md").write_text(table(rows, machine))
    typer.echo((out / "latency.md").read_text())


def measure(live: Live, passes: int) -> tuple[list[float], list[float]]:
    """Milliseconds from each key to its first and to its last picture."""
    live.page.evaluate(WATCH, live.box.element_handle())
    looks = []
    for number in range(passes):
        back = number % 2 == 1
        stops = WEIGHTS[::-1] if back else WEIGHTS
        live.press("w", "End" if back else "Home")
        live.press("seed", "ArrowRight")  # new noise: nothing is kept from before
        live.expects(w=stops[0], seed=number + 1)
        for w in stops[1:]:
            pictures = press(live, "ArrowLeft" if back else "ArrowRight", w)
            if w != live.values["other_w"]:  # whose row is there already
                looks.append((pictures[0], pictures[-1]))
    return tuple(zip(*looks, strict=True))


def press(live: Live, key: str, w: float) -> list[float]:
    """When the pictures came that a key brought, up to the library's own for the weight to which it leads."""
    live.values["w"] = w
    full = data_url(live.twin.at(**live.values).png)
    live.handle("w").focus()
    live.page.evaluate("() => { window.keys = []; window.pictures = []; }")
    live.page.keyboard.press(key)
    live.page.wait_for_function("full => window.pictures.at(-1)?.[1] == full", arg=full, timeout=SECONDS, polling=50)
    return live.page.evaluate("window.pictures.map(([time]) => time - window.keys[0])")


def table(rows: dict[str, list[float]], machine: str) -> str:
    found = {
        name: {"median": np.median(times), "95th percentile": np.percentile(times, 95)} for name, times in rows.items()
    }
    missed = [name for name, most in GOAL.items() if found["full picture"][name] >= most]
    lines = [
        f"{machine}; guidance slider, ten images; {len(rows['full picture'])} keys in Chromium",
        "",
        "| from the key to | median | 95th percentile |",
        "|---|---|---|",
        *(f"| {name} | {one['median']:.0f} ms | {one['95th percentile']:.0f} ms |" for name, one in found.items()),
        "",
        f"Full picture: {', '.join(f'{name} under {most} ms' for name, most in GOAL.items())} is the goal; "
        + (f"missed: {', '.join(missed)}." if missed else "reached."),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
