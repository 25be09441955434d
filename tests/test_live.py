"""What all sliders share: the newest move wins, something is seen at once, nothing queues up, errors come in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from PIL import Image

from ddpm_lib.errors import InputError
from ddpm_lib.frames import Picture, picture, picture_html
from ddpm_lib.live import OWN_KEYS, Explorer, finished, player, spread, steppers, whole_slider
from ddpm_lib.stored import WIDGET_VIEW

SLICES = 10


class Drawing:
    """Ten slices: a preview after the third, the full picture after the last. Notes what was begun and shown."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []

    def __call__(self, x: int) -> Iterator[Picture | None]:
        self.begun.append(x)
        if x == 13:
            raise InputError("x is 13; take a luckier <number>")
        if x == 14:
            raise ZeroDivisionError("a bug")
        for slice_ in range(SLICES):
            yield shot(x, "preview") if slice_ == 2 else None
        self.done.append(x)
        yield shot(x, "full")


def shot(x: int, quality: str) -> Picture:
    return picture(Image.new("L", (4, 4), x), f"The number {x}.", f"{x} {quality}")


@pytest.fixture
def drawing() -> Drawing:
    return Drawing()


@pytest.fixture
def explorer(drawing: Drawing) -> Explorer:
    return Explorer(drawing, {"x": whole_slider("x", 0, 100, 5)}, "x", [0, 5, 10])


def seen(explorer: Explorer) -> str | None:
    return explorer.picture and explorer.picture.caption


async def idle(explorer: Explorer) -> None:
    while explorer._worker is not None:
        await asyncio.sleep(0)


def test_without_an_event_loop_a_move_draws_to_the_end(explorer: Explorer):
    explorer.controls["x"].value = 7
    assert seen(explorer) == "7 full"
    assert explorer._view.value == picture_html(shot(7, "full"), OWN_KEYS)


def test_a_move_shows_a_preview_then_the_full_picture(explorer: Explorer):
    async def reader() -> list[str]:
        captions = []
        explorer._view.observe(lambda _: captions.append(seen(explorer)), "value")
        explorer.controls["x"].value = 7
        assert seen(explorer) is None  # the event itself takes no time
        await idle(explorer)
        return captions

    assert asyncio.run(reader()) == ["7 preview", "7 full"]


def test_a_newer_move_ends_the_older_drawing(explorer: Explorer, drawing: Drawing):
    async def reader() -> None:
        explorer.controls["x"].value = 7
        while seen(explorer) != "7 preview":
            await asyncio.sleep(0)
        explorer.controls["x"].value = 8
        await idle(explorer)

    asyncio.run(reader())
    assert drawing.done == [8]
    assert seen(explorer) == "8 full"


def test_nothing_queues_up_and_the_newest_wins(explorer: Explorer, drawing: Drawing):
    async def reader() -> None:
        for x in range(20, 60):  # faster than anything can be drawn
            explorer.controls["x"].value = x
        await idle(explorer)

    asyncio.run(reader())
    assert drawing.begun == [59]
    assert seen(explorer) == "59 full"


def test_something_is_seen_during_a_drag_that_never_rests(explorer: Explorer, drawing: Drawing):
    async def reader() -> list[str]:
        captions = []
        explorer._view.observe(lambda _: captions.append(seen(explorer)), "value")
        for x in range(20, 80):
            explorer.controls["x"].value = x
            await asyncio.sleep(0.001)
        await idle(explorer)
        return captions

    captions = asyncio.run(reader())
    assert len(captions) > 3
    assert all(caption.endswith("preview") for caption in captions[:-1])
    assert captions[-1] == "79 full"
    assert len(drawing.begun) == len(captions) - 1  # whatever was begun was seen


def test_other_work_of_the_kernel_comes_between_the_slices(explorer: Explorer):
    async def reader() -> int:
        turns = 0
        explorer.controls["x"].value = 7
        while explorer._worker is not None:
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(reader()) >= SLICES


@pytest.mark.parametrize(
    ("x", "words"), [(13, "x is 13; take a luckier &lt;number&gt;"), (14, "ZeroDivisionError: a bug")]
)
def test_an_error_appears_in_words_and_goes_with_the_next_move(explorer: Explorer, x: int, words: str):
    explorer.controls["x"].value = 7
    explorer.controls["x"].value = x
    assert words in explorer._message.value
    assert 'role="alert"' in explorer._message.value
    assert "opacity" in explorer._view.value  # the old picture is paler
    explorer.controls["x"].value = 8
    assert explorer._message.value == ""
    assert explorer._view.value == picture_html(shot(8, "full"), OWN_KEYS)


def test_an_interruption_ends_the_drawing_and_not_the_loop():
    def draw(x: int) -> Iterator[Picture | None]:
        yield shot(x, "preview")
        if x == 7:
            raise KeyboardInterrupt

    explorer = Explorer(draw, {"x": whole_slider("x", 0, 100, 5)}, "x", [5])

    async def reader() -> None:
        explorer.controls["x"].value = 7
        await idle(explorer)
        assert "KeyboardInterrupt" in explorer._message.value
        explorer.controls["x"].value = 8
        await idle(explorer)

    asyncio.run(reader())
    assert seen(explorer) == "8 preview"


def test_the_output_is_live_and_has_a_slider_and_a_still_for_places_without_a_kernel(explorer: Explorer):
    data, metadata = explorer._repr_mimebundle_()
    assert list(data)[:2] == ["text/plain", WIDGET_VIEW]
    assert data[WIDGET_VIEW]["model_id"] == explorer.box.model_id
    assert data["image/png"] == shot(5, "full").png
    assert metadata == {"image/png": {"alt": "The number 5."}}
    assert data["text/plain"] == "The number 5. 5 full"
    assert [frame.caption for frame in explorer.frames] == ["0 full", "5 full", "10 full"]
    assert all(frame.caption in data["text/html"] for frame in explorer.frames)
    assert explorer._view.value == picture_html(shot(5, "full"), OWN_KEYS)  # the live one begins with the same picture


def test_a_second_look_at_the_output_draws_nothing_anew(explorer: Explorer, drawing: Drawing):
    first = explorer._repr_mimebundle_()
    count = len(drawing.begun)
    explorer.controls["x"].value = 7
    assert explorer._repr_mimebundle_() == first
    assert len(drawing.begun) == count + 1
    assert seen(explorer) == "7 full"


def test_the_frames_vary_a_control_from_its_first_value(drawing: Drawing):
    slider = whole_slider("x", 0, 100, 5)
    for axis, positions in (("y", [5]), ("x", [0, 10])):
        with pytest.raises(InputError, match=f"the frames vary '{axis}'"):
            Explorer(drawing, {"x": slider}, axis, positions)


def test_a_drawing_without_a_picture_is_refused():
    with pytest.raises(InputError, match="no picture"):
        finished(iter([None, None]))


def test_descriptions_are_never_cut_off():
    assert whole_slider("a long description", 0, 1, 0).style.description_width == "initial"


def test_step_buttons_stop_at_the_ends():
    slider = whole_slider("x", 0, 2, 1)
    back, on = steppers(slider).children
    values = []
    for button in (on, on, back, back, back):
        button.click()
        values.append(slider.value)
    assert values == [2, 2, 1, 0, 0]


def test_play_moves_the_slider_to_its_end_and_releases_itself_then_begins_anew():
    async def reader() -> list[int]:
        slider, values = whole_slider("x", 0, 100, 75), []
        slider.observe(lambda change: values.append(change.new), "value")
        play = player(slider, step=10, seconds=0)
        play.value = True
        await play.task
        assert not play.value
        play.value = True
        await asyncio.sleep(0)
        play.value = False  # released
        await play.task
        return values

    assert asyncio.run(reader()) == [85, 95, 100, 0, 10]


@pytest.mark.parametrize(("low", "high", "count", "among"), [(0, 999, 14, 300), (1, 3, 12, 2), (0, 9, 2, 9)])
def test_positions_rise_from_end_to_end_and_hold_the_first_value(low: int, high: int, count: int, among: int):
    positions = spread(low, high, count, among)
    assert positions == sorted(set(positions))
    assert (positions[0], positions[-1]) == (low, high)
    assert among in positions
    assert len(positions) <= count + 1
