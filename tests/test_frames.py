"""Pictures for sliders, and the slider in HTML that needs no kernel."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lib.errors import InputError
from ddpm_lib.frames import (
    LINE,
    STORED_COLOURS,
    Picture,
    arrows,
    below,
    beside,
    picture,
    picture_html,
    slider_html,
    tiles,
)


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and its readable text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def only(self, tag: str) -> dict[str, str | None]:
        (attributes,) = [attributes for name, attributes in self.tags if name == tag]
        return attributes


def decoded(source: str) -> np.ndarray:
    kind, data = source.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


@pytest.fixture
def frames() -> list[Picture]:
    generator = torch.Generator().manual_seed(0)
    return [
        picture(
            tiles([torch.rand(2, 1, 28, 28, generator=generator) * 2 - 1]),
            f'A "picture" <{i}> & more.',
            f"value {i} < 3",
        )
        for i in range(3)
    ]


def test_a_tile_shows_every_pixel_to_half_a_grey_level():
    rows = [torch.linspace(-1.2, 1.2, 2 * 28 * 28).reshape(2, 1, 28, 28), torch.zeros(2, 1, 28, 28)]
    grid = torch.from_numpy(np.array(tiles(rows, column_labels=["a", "b"], scale=3)))[LINE:].float() / 127.5 - 1
    for column in (0, 1):
        tile = grid[1 : 28 * 3 : 3, column * 88 + 1 : column * 88 + 28 * 3 : 3]
        torch.testing.assert_close(tile, rows[0][column, 0].clamp(-1, 1), atol=0.5 / 127.5 + 1e-6, rtol=0)
    assert (grid[89:] > -0.01).all()  # the second row is grey, and white between the images


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4)], {}, "all must be one"),
        ([torch.zeros(1, 4, 4)], {}, "all must be one"),
        ([torch.zeros(2, 1, 4, 4)], {"row_labels": ["a", "b"]}, "row_labels has 2 entries for 1"),
        ([torch.zeros(2, 1, 4, 4)], {"column_labels": ["a"]}, "column_labels has 1 entries for 2"),
    ],
)
def test_rows_and_labels_that_do_not_fit_are_refused(rows, labels, message):
    with pytest.raises(InputError, match=message):
        tiles(rows, **labels)


def test_images_are_joined_without_a_change():
    left, right = Image.new("L", (4, 6), 10), Image.new("RGB", (5, 2), "red")
    wide, high = np.asarray(beside(left, right)), np.asarray(below(left, right))
    assert (wide[:, :4] == 10).all()
    assert (wide[2:4, -5:] == [255, 0, 0]).all()
    assert (high[:6, :4] == 10).all()
    assert (high[-2:, :5] == [255, 0, 0]).all()


def test_arrows_are_to_scale():
    drawn = np.asarray(arrows([((1.0, 0.0), "", "#ff0000"), ((3.0, 0.0), "", "#0000ff")], ""), dtype=int)
    red = np.argwhere((drawn == [255, 0, 0]).all(-1))[:, 1].max() - 4  # the tip's dot has a radius of 4
    blue = np.argwhere((drawn == [0, 0, 255]).all(-1))[:, 1].max() - 4
    black = np.argwhere((drawn == 0).all(-1))[:, 1].max() - 4
    assert abs((blue - black) / (red - black) - 3) < 0.05


def test_a_picture_needs_its_description():
    with pytest.raises(InputError, match="alt="):
        picture(Image.new("L", (2, 2)), " ", "caption")


def test_the_shown_picture_has_description_read_out_and_the_exact_pixels(frames: list[Picture]):
    page = Elements(picture_html(frames[1]))
    image = page.only("img")
    assert image["alt"] == frames[1].alt
    assert page.text == frames[1].caption
    assert base64.b64decode(image["src"].split(",")[1]) == frames[1].png
    assert (image["width"], image["height"]) == ("228", "112")


def test_the_html_slider_has_a_label_all_positions_and_the_first_frame(frames: list[Picture]):
    page = Elements(slider_html("t & more", ["10", "20", "30"], frames, 1, "a note"))
    slider = page.only("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "2", "1")
    assert slider["aria-valuetext"] == "20"
    assert [tag for tag, _ in page.tags][:3] == ["figure", "label", "input"]  # inside its label, so that it is named
    assert page.only("img")["alt"] == frames[1].alt
    assert page.only("output") == {}  # a live region: screen readers say what changes in it
    for words in ("t & more", "20", frames[1].caption, "a note"):
        assert words in page.text


def test_the_html_slider_holds_every_frame_in_fewer_colours(frames: list[Picture]):
    page = Elements(slider_html("t", ["10", "20", "30"], frames, 0))
    stored = json.loads(page.only("figure")["data-frames"])
    assert [entry[:3] for entry in stored] == [
        [value, frame.caption, frame.alt] for value, frame in zip(("10", "20", "30"), frames, strict=True)
    ]
    for (*_, source), frame in zip(stored, frames, strict=True):
        exact = np.asarray(Image.open(io.BytesIO(frame.png)).convert("RGB")).astype(int)
        assert abs(decoded(source) - exact).max() <= 15
        assert len(np.unique(decoded(source).reshape(-1, 3), axis=0)) <= STORED_COLOURS


def test_the_html_slider_asks_nothing_of_network_or_scripts(frames: list[Picture]):
    page = slider_html("t", ["10", "20", "30"], frames, 0)
    assert "http" not in page
    assert "<script" not in page
    assert " id=" not in page
    assert page == slider_html("t", ["10", "20", "30"], frames, 0)


def test_the_html_slider_wants_a_value_for_each_frame(frames: list[Picture]):
    with pytest.raises(InputError, match="2 values for 3 frames"):
        slider_html("t", ["10", "20"], frames, 0)
    with pytest.raises(InputError, match="starting at 3"):
        slider_html("t", ["10", "20", "30"], frames, 3)
