"""Pictures from one hand: sizes, colours and grids. Every function builds a matplotlib Figure; `show` displays it.

Nothing here touches pyplot or global settings, so a plot looks the same in a notebook, a test and the book.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import PIL.Image
import torch
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from ddpm_lib.errors import InputError

# Okabe & Ito's colours, told apart with any colour vision; the order is ours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")  # a second way to tell lines apart, for print
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "figure.facecolor": "white",  # readable also on a dark page
    "image.cmap": "gray",
}


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 8.0, height: float = 3.0, **subplot_options: Any
) -> tuple[Figure, np.ndarray]:
    """An empty figure in the course's style, and its axes as an array `[rows, columns]`.

    Args:
        rows, columns: the grid of axes.
        width, height: of the whole figure, in inches.
        subplot_options: passed to `Figure.subplots`, e.g. sharex=True.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False, **subplot_options)


def show(figure: Figure, alt: str, dpi: int = 100) -> None:
    """Displays a figure in a notebook as a PNG that carries its description.

    Args:
        figure: from this module.
        alt: what the picture shows, in a sentence or two, for readers who do not see it.
        dpi: dots per inch.

    Raises:
        InputError: the description is empty.
    """
    if not alt.strip():
        raise InputError("a figure needs its description: alt='what the picture shows'")
    display(Image(data=to_png(figure, dpi), format="png", alt=alt))


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as PNG bytes, the same each time it is built and drawn (no date, no version inside)."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_pixels(images: Tensor) -> Tensor:
    """Images with values -1 … 1 as grey values 0 … 255, uint8 on the CPU; what lies beyond is cut."""
    return ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def png_bytes(image: PIL.Image.Image, **options: Any) -> bytes:
    """An image of Pillow's as PNG bytes; `options` as in its `save`."""
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def draw_image(ax: Axes, image: Tensor, low: float = -1.0, high: float = 1.0, cmap: str = "gray") -> None:
    """Draws one image, `[1, h, w]` or `[h, w]`, with values low … high from black to white, without ticks.

    Raises:
        InputError: the image has another shape.
    """
    ax.imshow(_pixels(image), cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def image_grid(
    images: Tensor,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    size: float = 0.8,
    title: str | None = None,
    low: float = -1.0,
    high: float = 1.0,
    cmap: str = "gray",
) -> Figure:
    """A grid of images, row by row.

    Args:
        images: `[N, 1, h, w]` or `[N, h, w]`.
        columns: images in a row; None: all in one row up to 10.
        titles: one a picture, above it; or row_labels and column_labels for whole rows and columns.
        size: of one image, in inches.
        title: of the figure.
        low, high: the values drawn black and white; beyond them the picture is cut.
        cmap: a matplotlib colour map, for feature maps.

    Raises:
        InputError: images has another shape, or a list of labels another length.
    """
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[1] != 1) or len(images) == 0:
        raise InputError(f"images have shape {list(images.shape)}; a grid takes [N, 1, h, w] or [N, h, w], N >= 1")
    columns = columns or min(len(images), 10)
    rows = -(-len(images) // columns)
    for name, labels, count in (
        ("titles", titles, len(images)),
        ("row_labels", row_labels, rows),
        ("column_labels", column_labels, columns),
    ):
        if labels is not None and len(labels) != count:
            raise InputError(f"{name} has {len(labels)} entries for {count} places")
    margin = 0.11 * max(map(len, row_labels)) if row_labels else 0.0
    above = (0.25 if column_labels else 0.0) + (0.3 if title else 0.0) + (0.25 * rows if titles else 0.0)
    figure, axes = new_figure(rows, columns, width=columns * size + margin, height=rows * size + above)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for ax in axes.flat:
        ax.set_axis_off()
    for index, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        ax.set_axis_on()
        draw_image(ax, image, low, high, cmap)
        if titles is not None:
            ax.set_title(titles[index], fontsize=8)
        if column_labels is not None and index < columns:
            ax.set_title(column_labels[index], fontsize=9)
        if row_labels is not None and index % columns == 0:
            ax.set_ylabel(row_labels[index // columns], rotation=0, ha="right", va="center", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def curves(
    lines: Mapping[str, Sequence[ArrayLike]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    width: float = 7.0,
    height: float = 3.2,
) -> Figure:
    """Lines by name, each (x values, y values), told apart by colour and by dashes.

    Args:
        lines: name -> (x, y), or (x, y, low, high) with an interval about y as a band; a single line gets no legend.
        xlabel, ylabel, title: with units.
        log_x, log_y: logarithmic axes.
        width, height: in inches.
    """
    figure, axes = new_figure(width=width, height=height)
    draw_curves(axes[0, 0], lines, xlabel, ylabel, title, log_x, log_y)
    return figure


def draw_curves(
    ax: Axes,
    lines: Mapping[str, Sequence[ArrayLike]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """`curves` on axes that are there already."""
    for index, (name, (x, y, *band)) in enumerate(lines.items()):
        style = (
            LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]
            if len(lines) > len(COLOURS)
            else LINE_STYLES[index % 4]
        )
        colour = COLOURS[index % len(COLOURS)]
        ax.plot(_numbers(x), _numbers(y), style, color=colour, label=name)
        if band:
            ax.fill_between(_numbers(x), *map(_numbers, band), color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    if title:
        ax.set_title(title)
    if len(lines) > 1:
        ax.legend(frameon=False)


def heat_map(
    values: Tensor, xlabel: str, ylabel: str, title: str | None = None, cmap: str = "RdBu_r", limit: float | None = None
) -> Figure:
    """A matrix `[rows, columns]` as colours, with a colour bar; `limit` makes the colours symmetric about 0."""
    figure, axes = new_figure(width=7.0, height=3.5)
    low, high = (None, None) if limit is None else (-limit, limit)
    picture = axes[0, 0].imshow(_pixels(values), aspect="auto", cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    axes[0, 0].grid(False)
    axes[0, 0].set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes[0, 0].set_title(title)
    figure.colorbar(picture, ax=axes[0, 0])
    return figure


def smooth(values: ArrayLike, window: int) -> np.ndarray:
    """The running mean over the last `window` values (over all there are, at the beginning): for noisy losses.

    Raises:
        InputError: window is below 1.
    """
    if window < 1:
        raise InputError(f"window is {window}; it must be at least 1, which leaves the values as they are")
    values = _numbers(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _pixels(image: Tensor) -> np.ndarray:
    values = torch.as_tensor(image).detach().float().cpu()
    if values.ndim < 2 or values.shape[:-2].numel() != 1:
        raise InputError(f"an image has shape {list(values.shape)}; it must be [1, h, w] or [h, w]")
    return values.reshape(values.shape[-2:]).numpy()


def _numbers(values: ArrayLike) -> np.ndarray:
    values = values.detach().cpu() if isinstance(values, Tensor) else values
    return np.asarray(values, dtype=float)
