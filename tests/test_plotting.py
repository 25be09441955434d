"""Pictures: the right pixels in the right place, the same bytes each time, and no trace in global settings."""

from __future__ import annotations

import struct

import matplotlib as mpl
import numpy as np
import pytest
import torch
from IPython.display import Image
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tiny import refused
from torch import Tensor
from torch.testing import assert_close

from ddpm_lib import plotting
from ddpm_lib.plotting import (
    COLOURS,
    curves,
    draw_curves,
    draw_image,
    heat_map,
    image_grid,
    new_figure,
    show,
    smooth,
    to_png,
)

IMAGES = torch.linspace(-1, 1, 7).reshape(7, 1, 1, 1).expand(7, 1, 28, 28)  # seven shades, black to white
LINES = {"linear": ([0, 1, 2], [1.0, 2.0, 4.0]), "cosine": (torch.arange(3), torch.tensor([3.0, 2.0, 1.0]))}


def figures() -> dict[str, Figure]:
    return {
        "grid": image_grid(IMAGES, columns=4, titles=list("abcdefg"), title="shades"),
        "curves": curves(LINES, "t", "value", title="two lines", log_y=True),
        "heat map": heat_map(torch.eye(4) - 0.5, "i", "j", title="a matrix", limit=1.0),
    }


def drawn(ax: Axes) -> np.ndarray:
    """The colours of an axes' picture, `[h, w, 3]` in 0 … 255."""
    picture = ax.images[0]
    return picture.to_rgba(picture.get_array(), bytes=True)[..., :3]


def visible(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


# --- what holds for every figure


@pytest.mark.parametrize("name", figures())
def test_the_same_figure_gives_the_same_png(name):
    first, again = to_png(figures()[name]), to_png(figures()[name])
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert first == again
    assert b"matplotlib" not in first.lower()  # its version would change the bytes with every release


def test_a_png_has_the_figures_size():
    figure, _ = new_figure(width=3.0, height=2.0)
    assert struct.unpack(">II", to_png(figure, dpi=50)[16:24]) == (150, 100)


def test_nothing_global_changes():
    settings, open_figures = dict(mpl.rcParams), plt.get_fignums()
    for figure in figures().values():
        to_png(figure)
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == open_figures


def test_new_figure_gives_axes_by_row_and_column():
    _, axes = new_figure(2, 3, sharex=True)
    assert axes.shape == (2, 3)
    assert new_figure()[1].shape == (1, 1)


def test_show_displays_a_png_with_its_description(monkeypatch):
    shown = []
    monkeypatch.setattr(plotting, "display", shown.append)
    show(figures()["grid"], "seven shades of grey")
    (image,) = shown
    assert isinstance(image, Image)
    assert image.data == to_png(figures()["grid"])
    assert image.alt == "seven shades of grey"


# --- images


def test_minus_one_is_black_and_one_is_white_and_beyond_is_cut():
    _, axes = new_figure()
    draw_image(axes[0, 0], torch.tensor([[-1.0, 0.0, 1.0], [-7.0, 0.5, 7.0]]))
    assert drawn(axes[0, 0])[..., 0].tolist() == [[0, 128, 255], [0, 192, 255]]


def test_a_grid_fills_row_by_row_and_leaves_the_rest_empty():
    figure = image_grid(IMAGES, columns=3)
    assert len(figure.axes) == 9
    shades = [drawn(ax)[0, 0, 0] for ax in visible(figure)]
    assert len(shades) == 7
    assert shades == sorted(shades)
    rows = {ax.get_subplotspec().rowspan.start for ax in visible(figure)[3:6]}
    assert rows == {1}


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (7, 7), (10, 10), (11, 10)])
def test_a_grid_has_at_most_ten_columns_unless_asked(n, columns):
    figure = image_grid(torch.zeros(n, 28, 28))
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns


def test_labels_stand_at_their_rows_columns_and_pictures():
    figure = image_grid(IMAGES[:6], columns=3, row_labels=["a", "b"], column_labels=["x", "y", "z"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["a", "", "", "b", "", ""]
    assert [ax.get_title() for ax in figure.axes] == ["x", "y", "z", "", "", ""]
    figure = image_grid(IMAGES[:2], titles=["left", "right"], title="both")
    assert [ax.get_title() for ax in figure.axes] == ["left", "right"]
    assert figure.get_suptitle() == "both"


def test_other_ranges_and_one_pixel_high_images_are_drawn():
    figure = image_grid(torch.tensor([[[0.0, 5.0, 10.0]]]), low=0.0, high=10.0)
    assert drawn(figure.axes[0])[0, :, 0].tolist() == [0, 128, 255]


# --- lines


def test_lines_carry_their_names_and_numbers():
    figure = curves(LINES, "t", "value")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["linear", "cosine"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("t", "value")
    assert_close(ax.lines[1].get_ydata(), np.array([3.0, 2.0, 1.0]))


def test_a_single_line_has_no_legend():
    assert curves({"loss": ([0, 1], [1, 2])}, "step", "loss").axes[0].get_legend() is None


@pytest.mark.parametrize("n", [2, 4, 7, 12, 28])
def test_no_two_lines_look_alike(n):
    figure = curves({str(i): ([0, 1], [i, i]) for i in range(n)}, "x", "y")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == n


def test_up_to_four_lines_can_be_told_apart_without_colour():
    figure = curves({str(i): ([0, 1], [i, i]) for i in range(4)}, "x", "y")
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) == 4


def test_axes_are_logarithmic_where_asked():
    _, axes = new_figure()
    draw_curves(axes[0, 0], LINES, "x", "y", log_x=True)
    assert (axes[0, 0].get_xscale(), axes[0, 0].get_yscale()) == ("log", "linear")


def test_an_interval_is_drawn_as_a_band_of_its_lines_colour():
    figure = curves({"a": ([0, 1], [1, 2]), "b": ([0, 1], [3, 3], [2, 2.5], [4, 3.5])}, "x", "y")
    ((band,), lines) = figure.axes[0].collections, figure.axes[0].lines
    assert band.get_datalim(figure.axes[0].transData).extents.tolist() == [0, 2, 1, 4]
    assert mpl.colors.to_rgb(band.get_facecolor()[0]) == mpl.colors.to_rgb(lines[1].get_color())


def test_losses_with_a_gradient_can_be_drawn():
    curves({"loss": ([0, 1], torch.ones(2, requires_grad=True))}, "step", "loss")


def test_the_colours_differ_in_brightness_too():
    def luminance(colour: str) -> float:
        return float(np.dot(mpl.colors.to_rgb(colour), [0.2126, 0.7152, 0.0722]))

    first_four = sorted(luminance(colour) for colour in COLOURS[:4])
    assert len(set(COLOURS)) == len(COLOURS) == 7
    assert min(np.diff(first_four)) > 0.01


# --- matrices and means


def test_a_heat_maps_limit_makes_zero_the_middle():
    figure = heat_map(torch.tensor([[0.5, 0.0], [-0.1, 2.0]]), "x", "y", limit=2.0)
    assert figure.axes[0].images[0].get_clim() == (-2.0, 2.0)
    assert len(figure.axes) == 2  # the matrix and its colour bar


def test_a_heat_map_of_one_row_is_drawn():
    assert heat_map(torch.zeros(1, 5), "x", "y").axes[0].images[0].get_array().shape == (1, 5)


@pytest.mark.parametrize("window", [1, 2, 5, 50])
def test_smooth_is_the_mean_of_the_last_values(window):
    values = np.random.default_rng(0).normal(size=20)
    expected = [np.mean(values[max(0, i - window + 1) : i + 1]) for i in range(20)]
    np.testing.assert_allclose(smooth(values, window), expected)
    np.testing.assert_allclose(smooth(torch.from_numpy(values), window), expected)


def test_smoothing_nothing_gives_nothing():
    assert smooth([], 5).shape == (0,)


def _grid(images: Tensor, **options):
    return lambda: image_grid(images, **options)


BAD = {
    "images in colour": (_grid(torch.zeros(2, 3, 28, 28)), ["[2, 3, 28, 28]", "[N, 1, h, w]"]),
    "one image": (_grid(torch.zeros(28, 28)), ["[28, 28]", "[N, h, w]"]),
    "no image": (_grid(torch.zeros(0, 1, 28, 28)), ["[0, 1, 28, 28]", "N >= 1"]),
    "too few titles": (_grid(IMAGES, titles=["a"]), ["titles has 1 entries for 7 places"]),
    "too many row labels": (_grid(IMAGES, row_labels=["a", "b"]), ["row_labels has 2 entries for 1 places"]),
    "too few column labels": (_grid(IMAGES, columns=4, column_labels=["a"]), ["column_labels has 1", "4 places"]),
    "no description": (lambda: show(figures()["curves"], "  "), ["description", "alt="]),
    "a matrix of vectors": (lambda: heat_map(torch.zeros(2, 3, 4), "x", "y"), ["[2, 3, 4]", "[h, w]"]),
    "a colour image": (lambda: draw_image(new_figure()[1][0, 0], torch.zeros(3, 28, 28)), ["[3, 28, 28]", "[1, h, w]"]),
    "window 0": (lambda: smooth([1.0], 0), ["window is 0", "at least 1"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
