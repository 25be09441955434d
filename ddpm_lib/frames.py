"""Pictures for sliders: drawn in milliseconds, and a slider over ready-made ones, in HTML, that needs no kernel."""

from __future__ import annotations

import base64
import functools
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm_lib.errors import InputError
from ddpm_lib.plotting import png_bytes, to_pixels, to_png

SCALE = 4  # screen pixels for one of an image's
GAP = 4  # between two images
LINE = 18  # height of a label
LABEL = 64  # widths of labels are multiples of this
STORED_COLOURS = 64  # a stored frame's, at most: greys are off by up to 15 of 255, and a third of the bytes remains


class Picture(NamedTuple):
    """What a slider shows at one of its positions."""

    png: bytes
    alt: str  # what is to be seen, for readers who do not see it
    caption: str  # the read-out below: the values that belong to the picture


def tiles(
    rows: Sequence[Tensor],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = SCALE,
) -> Image.Image:
    """Grey images in rows, each pixel a square of `scale` screen pixels, -1 black and 1 white.

    Exact, and much faster than a grid of matplotlib axes.

    Args:
        rows: each `[n, 1, h, w]`, all of one shape; values beyond [-1, 1] are cut.
        row_labels: one a row, on the left.
        column_labels: one a column, above.
        scale: screen pixels for one pixel.

    Raises:
        InputError: the rows have different shapes, or a list of labels another length.
    """
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise InputError(f"the rows have shapes {sorted(map(list, shapes))}; all must be one [n, 1, h, w]")
    (n, _, height, width) = shapes.pop()
    for name, labels, count in (("row_labels", row_labels, len(rows)), ("column_labels", column_labels, n)):
        if labels is not None and len(labels) != count:
            raise InputError(f"{name} has {len(labels)} entries for {count} places")
    pixels = to_pixels(torch.stack(list(rows)))
    grid = pixels[:, :, 0].repeat_interleave(scale, -1).repeat_interleave(scale, -2).numpy()
    widest = max((_font().getlength(label) for label in row_labels or ()), default=0)
    left = LABEL * -(-int(widest + 8) // LABEL) if row_labels else 0  # so that images stay in place as labels change
    top = LINE if column_labels else 0
    step_x, step_y = width * scale + GAP, height * scale + GAP
    canvas = np.full((top + step_y * len(rows) - GAP, left + step_x * n - GAP), 255, np.uint8)
    for i, j in np.ndindex(len(rows), n):
        y, x = top + i * step_y, left + j * step_x
        canvas[y : y + height * scale, x : x + width * scale] = grid[i, j]
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    for i, label in enumerate(row_labels or ()):
        pen.text((left - 6, top + i * step_y + height * scale // 2), label, fill=0, font=_font(), anchor="rm")
    for j, label in enumerate(column_labels or ()):
        pen.text((left + j * step_x + width * scale // 2, LINE // 2), label, fill=0, font=_font(), anchor="mm")
    return image


def chart(figure: Figure, dpi: int = 100) -> Image.Image:
    """A matplotlib figure as an image."""
    return Image.open(io.BytesIO(to_png(figure, dpi))).convert("RGB")


def beside(*images: Image.Image) -> Image.Image:
    """Images in a row on white, each in the middle of its height."""
    height, gap = max(image.height for image in images), 3 * GAP
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole, x = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        whole.paste(image, (x, (height - image.height) // 2))
        x += image.width + gap
    return whole


def below(*images: Image.Image) -> Image.Image:
    """Images under each other on white, all from the left edge."""
    width, gap = max(image.width for image in images), 2 * GAP
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    whole, y = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        whole.paste(image, (0, y))
        y += image.height + gap
    return whole


def arrows(
    tips: Sequence[tuple[Sequence[float], str, str]], origin: str, width: int = 640, height: int = 220
) -> Image.Image:
    """Arrows from one point, to scale, with names at their tips: a drawing that a matplotlib figure is too slow for.

    Args:
        tips: ((right, up), name, colour), drawn in this order.
        origin: the name of the point they start from.
        width, height: of the drawing.
    """
    fine = 2  # drawn larger, then shrunk: soft edges
    image = Image.new("RGB", (width * fine, height * fine), "white")
    pen, font = ImageDraw.Draw(image), _font(13 * fine)
    places = np.array([(0.0, 0.0), *(place for place, _, _ in tips)])
    low, high = places.min(0), places.max(0)
    room = np.array([width - 260, height - 60]) * fine  # for the names
    scale = float((room / np.maximum(high - low, 1e-9)).min())
    shift = np.array([width, height]) * fine / 2 - (low + high) / 2 * scale * (1, -1)
    points = [tuple(place * scale * (1, -1) + shift) for place in places]
    halo = {"stroke_width": 3 * fine, "stroke_fill": "white"}
    for point, (_, _, colour) in zip(points[1:], tips, strict=True):
        pen.line([points[0], point], colour, 2 * fine)
        pen.circle(point, 4 * fine, colour)
    pen.circle(points[0], 4 * fine, "black")
    pen.text((points[0][0], points[0][1] + 8 * fine), origin, "black", font, "ma", **halo)
    named = [(x, y, name, colour) for (x, y), (_, name, colour) in zip(points[1:], tips, strict=True) if name]
    farther = None
    for x, y, name, colour in sorted(named, key=lambda tip: -tip[0]):
        # There is room to the right of the farthest tip, and of one that lies clear of it.
        if farther is None or abs(y - farther[1]) > max(farther[0] - x, 16 * fine):
            pen.text((x + 8 * fine, y), name, colour, font, "lm", **halo)
        else:
            pen.text((x, y - 8 * fine), name, colour, font, "md", **halo)
        farther = (x, y)
    return image.resize((width, height), Image.Resampling.BOX)


def picture(image: Image.Image, alt: str, caption: str) -> Picture:
    """The image as PNG bytes, with its description and its read-out. Raises InputError if the description is empty."""
    if not alt.strip():
        raise InputError("a picture needs its description: alt='what the picture shows'")
    return Picture(png_bytes(image), alt, caption)


def picture_html(shown: Picture, on_load: str = "") -> str:
    """The picture and its read-out as HTML; narrower pages shrink it. `on_load`: JavaScript for when it is there."""
    caption = html.escape(shown.caption)
    return f'<figure style="margin:0">{_img(shown, on_load)}<figcaption>{caption}</figcaption></figure>'


# `this` is the element. No ids and no <script>: the output works where a page copies or moves it.
_ON_LOAD = "this.closest('figure').querySelector('label').style.display = 'block'"
_ON_INPUT = """
const figure = this.closest('figure'), [value, caption, alt, source] = JSON.parse(figure.dataset.frames)[this.value];
const image = figure.querySelector('img');
image.src = source; image.alt = alt;
this.setAttribute('aria-valuetext', value);
figure.querySelector('b').textContent = value;
figure.querySelector('output').textContent = caption;
"""


def slider_html(label: str, values: Sequence[str], frames: Sequence[Picture], start: int, note: str = "") -> str:
    """A slider over pictures that are there already: one piece of HTML that asks nothing of kernel or network.

    The keyboard moves it, a screen reader hears value and read-out. Where scripts are taken out (a notebook that is
    not trusted, some hosting sites), there is the picture at `start` and no slider that would do nothing.

    Args:
        label: what the slider sets.
        values: how its positions are called, one for each frame.
        frames: the pictures.
        start: the position shown first.
        note: a line for the reader, below.

    Raises:
        InputError: values and frames differ in number, or start is not a position.
    """
    if len(values) != len(frames) or not 0 <= start < len(frames):
        raise InputError(f"{len(values)} values for {len(frames)} frames, starting at {start}; they must fit together")
    frames = [frame._replace(png=_compact(frame.png)) for frame in frames]
    table = [[value, one.caption, one.alt, _source(one)] for value, one in zip(values, frames, strict=True)]
    data = html.escape(json.dumps(table, ensure_ascii=False, separators=(",", ":")))
    caption = html.escape(frames[start].caption)
    small = f'<small style="display:block;opacity:0.75">{html.escape(note)}</small>' if note else ""
    return (
        f'<figure style="margin:0" data-frames="{data}">'
        f'<label style="display:none">{html.escape(label)} '
        f'<input type="range" min="0" max="{len(frames) - 1}" step="1" value="{start}" style="width:min(24em,60%);'
        f'vertical-align:middle" aria-valuetext="{html.escape(values[start])}" '
        f'oninput="{html.escape(" ".join(_ON_INPUT.split()))}"> <b>{html.escape(values[start])}</b></label>'
        f"{_img(frames[start], _ON_LOAD)}<figcaption><output>{caption}</output>{small}</figcaption></figure>"
    )


def _source(shown: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(shown.png).decode()


def _compact(png: bytes) -> bytes:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(STORED_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    return png_bytes(few, optimize=True)


def _img(shown: Picture, on_load: str = "") -> str:
    width, height = Image.open(io.BytesIO(shown.png)).size
    handler = f' onload="{html.escape(on_load)}"' if on_load else ""
    return (
        f'<img alt="{html.escape(shown.alt)}" src="{_source(shown)}" width="{width}" height="{height}" '
        f'decoding="sync" style="max-width:100%;height:auto"{handler}>'
    )


@functools.cache
def _font(size: int = 13) -> ImageFont.FreeTypeFont:
    """matplotlib's own, so that labels and charts look alike."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
