"""Films the guidance slider in the real JupyterLab, for the README: `python tests/browser/film.py`.

The arrow key moves w from stop to stop; each frame is taken when the page shows what the library draws for that weight.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import jupyterlab
from live import Live, look, notebook_of, opened, result, run_all
from PIL import Image

from ddpm_lib import model_widgets, pretrained
from ddpm_lib.browser import chromium
from ddpm_lib.frames import below

FILM = Path(pretrained.__file__).parent / "guidance_slider.gif"
CELL = """from ddpm_lib import model_widgets, pretrained
from ddpm_lib.data import CLASS_NAMES
model_widgets.guidance(pretrained.load("fast"), pretrained.schedule("fast"), CLASS_NAMES)"""
WEIGHTS = model_widgets.WEIGHTS
WIDTH = 900  # of the page
SHORT, LONG = 400, 2000  # milliseconds a frame; the first and the last one rest
COLOURS, TIMES = 128, 3


def main() -> None:
    """Write the film."""
    frames = [w_in_focus(live) for live in weights()]
    # One palette for all, so that what stands still is the same in each.
    palette = below(frames[0], frames[-1]).quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    first, *others = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in frames]
    durations = [LONG, *[SHORT] * (len(others) - 1), LONG]
    first.save(FILM, save_all=True, append_images=others, duration=durations, loop=TIMES - 1, optimize=True)
    print(f"{FILM.name}: {len(frames)} frames of {first.width} x {first.height}, {FILM.stat().st_size // 1000} kB")


@contextmanager
def guidance_slider() -> Iterator[Live]:
    """The slider in a JupyterLab and a browser of its own, its cell run."""
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder)) as address,
        chromium() as browser,
        opened(browser, Path(folder), address, "guidance", notebook_of(CELL)) as page,
    ):
        run_all(page)
        yield Live(page, result(CELL, {}))


def weights() -> Iterator[Live]:
    """The slider at each of its weights, from the lowest on."""
    with guidance_slider() as live:
        look(live.page, "Light", WIDTH)
        for w in WEIGHTS:
            live.press("w", "Home" if w == WEIGHTS[0] else "ArrowRight")
            live.expects(w=w)
            yield live


def w_in_focus(live: Live) -> Image.Image:
    """A picture of the whole widget, as the reader sees it who has just pressed a key."""
    live.handle("w").focus()
    return Image.open(io.BytesIO(live.box.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
