"""What all sliders share: a picture that follows its controls, here and where no kernel runs.

The picture comes from a generator function, `draw(**values)`: it yields one `Picture` or several, each better than the
one before, and None wherever it can pause. In the pauses the kernel hears the reader. Three rules follow from that:

- a move of a control shows the first picture at once, and the others if the reader lets it;
- a newer move ends what an older one began, as soon as that has shown its first picture. So something is seen during a
  drag, and nothing queues up: of all moves that came meanwhile only the last one counts;
- the kernel is never busy longer than from one pause to the next.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import ipywidgets as widgets

from ddpm_lib.errors import DDPMError, InputError
from ddpm_lib.frames import Picture, picture_html, slider_html

Draw = Callable[..., Iterator[Picture | None]]

STYLE = {"description_width": "initial"}  # descriptions are never cut off
MARGIN = {"margin": "2px"}  # or kinds of controls that Jupyter treats differently stand askew
WIDE = {"width": "24em", "max_width": "98%", **MARGIN}
SEEDS = 100  # to choose from
STREAM = 6  # of `generator_for`: a seed means other noise here than in a training
# A key on a control belongs to the control: Jupyter would take arrow keys, and letters, for its commands.
OWN_KEYS = (
    "this.closest('.widget-vbox')?.querySelectorAll('[role=slider], .widget-readout, button')"
    ".forEach(one => one.setAttribute('data-lm-suppress-shortcuts', 'true'))"
)
PAUSE = 0.001  # seconds, for the messages that have come in


class Explorer:
    """A picture with its controls. Shown at the end of a cell, it is live; stored, it keeps ready-made frames.

    Its output holds three forms, and each place takes the first it knows: the live widgets (JupyterLab, Notebook,
    Voila), a slider over `frames` in plain HTML (a stored notebook, a static page), a PNG of the first position.

    Args:
        draw: a generator function of the controls' values, by name; see above.
        controls: the widgets whose values it takes, in the order in which they are shown.
        axis: the control that the frames vary; the others keep their first values.
        positions: the values of that control, among them the first one.
        extras: widgets to show with the controls, such as a play button.

    Raises:
        InputError: there is no such control, or its value is not among the positions.
    """

    def __init__(
        self,
        draw: Draw,
        controls: Mapping[str, widgets.Widget],
        axis: str,
        positions: Sequence[Any],
        extras: Sequence[widgets.Widget] = (),
    ) -> None:
        self.controls = dict(controls)
        if axis not in self.controls or self.controls[axis].value not in positions:
            raise InputError(f"the frames vary {axis!r} over {list(positions)}; it must be a control, starting there")
        self.axis, self.positions = axis, list(positions)
        self.picture: Picture | None = None  # the one shown
        self.first = self.values()
        self._draw = draw
        self._stale = False
        self._worker: asyncio.Task[None] | None = None
        self._message, self._view = widgets.HTML(), widgets.HTML()
        layout = widgets.Layout(flex_flow="row wrap", grid_gap="0 1.5em")
        row = widgets.HBox([*self.controls.values(), *extras], layout=layout)
        self.box = widgets.VBox([row, self._message, self._view])
        for control in self.controls.values():
            control.observe(self._moved, "value")

    def values(self) -> dict[str, Any]:
        """What the controls say now."""
        return {name: control.value for name, control in self.controls.items()}

    @cached_property
    def frames(self) -> list[Picture]:
        """The finished picture at each of the positions, with all other controls as they were at first."""
        return [self.at(**{self.axis: position}) for position in self.positions]

    def at(self, **values: Any) -> Picture:
        """The finished picture where controls have these values, and the others those they had at first."""
        return finished(self._draw(**{**self.first, **values}))

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        start = self.positions.index(self.first[self.axis])
        still = self.frames[start]
        if self.picture is None and self.values() == self.first:
            self._show(still)
        label = self.controls[self.axis].description
        note = "Ready-made frames. Run this cell to move every control."
        data = {
            **self.box._repr_mimebundle_(),
            "text/html": slider_html(label, list(map(_name, self.positions)), self.frames, start, note),
            "image/png": still.png,
            "text/plain": f"{still.alt} {still.caption}",
        }
        return data, {"image/png": {"alt": still.alt}}

    def _moved(self, _: Any) -> None:
        self._stale = True
        if self._worker is not None:
            return  # it looks by itself, in its next pause
        try:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        except RuntimeError:  # plain Python, without an event loop
            for _ in self._slices():
                pass

    async def _work(self) -> None:
        try:
            for _ in self._slices():
                await asyncio.sleep(PAUSE)
        finally:
            self._worker = None

    def _slices(self) -> Iterator[None]:
        while self._stale:
            self._stale = False
            yield from self._follow()

    def _follow(self) -> Iterator[None]:
        """Draws for the values of this moment, until they are outdated and something was shown for them."""
        shown = False
        try:
            for better in self._draw(**self.values()):
                if better is not None:
                    self._show(better)
                    shown = True
                yield
                if shown and self._stale:
                    return
        except (Exception, KeyboardInterrupt) as error:  # an interruption must not end the kernel's loop
            self._say(str(error) if isinstance(error, DDPMError) else f"{type(error).__name__}: {error}")

    def _show(self, better: Picture) -> None:
        self.picture = better
        self._view.value = picture_html(better, OWN_KEYS)
        self._message.value = ""

    def _say(self, words: str) -> None:
        # The picture stays, paler: it does not belong to these values.
        if self.picture is not None:
            self._view.value = f'<div style="opacity:0.4">{picture_html(self.picture)}</div>'
        self._message.value = f'<div role="alert"><b>This does not work:</b> {html.escape(words)}</div>'


def finished(pictures: Iterator[Picture | None]) -> Picture:
    """The last picture of a drawing. Raises InputError if it yields none."""
    last = None
    for better in pictures:
        last = better or last
    if last is None:
        raise InputError("the drawing yielded no picture; it must yield one at least")
    return last


def whole_slider(description: str, low: int, high: int, value: int, step: int = 1) -> widgets.IntSlider:
    """A slider over whole numbers that reports while it is dragged."""
    return widgets.IntSlider(value, low, high, step, description=description, style=STYLE, layout=WIDE)


def stops(description: str, options: Sequence[Any], value: Any) -> widgets.SelectionSlider:
    """A slider over given options: numbers, or pairs (name, value).

    Also for long lists of names: JupyterLab takes the arrow keys away from drop-down lists, but not from sliders.
    """
    named = [one if isinstance(one, tuple) else (_name(one), one) for one in options]
    return widgets.SelectionSlider(options=named, value=value, description=description, style=STYLE, layout=WIDE)


def choice(description: str, options: Sequence[str], value: str) -> widgets.ToggleButtons:
    """One button for each of a few options."""
    style = {**STYLE, "button_width": "auto"}
    beside = {"display": "flex", "align_items": "center", "grid_gap": "0 8px"}  # or the description stands above
    layout = {"width": "max-content", **beside, **MARGIN}
    return widgets.ToggleButtons(options=options, value=value, description=description, style=style, layout=layout)


def player(slider: widgets.IntSlider, step: int, seconds: float) -> widgets.ToggleButton:
    """A button that moves a slider by `step` every so many seconds, until it is released or the end is reached.

    ipywidgets' own Play, linked to a slider, can lose track during a drag: each then sets the other back for ever.
    """
    play = widgets.ToggleButton(description="play", icon="play")

    async def run() -> None:
        if slider.value == slider.max:
            slider.value = slider.min
        while play.value and slider.value < slider.max:
            slider.value = min(slider.value + step, slider.max)
            await asyncio.sleep(seconds)
        play.value = False

    def pressed(change: Any) -> None:
        if change.new:
            play.task = asyncio.get_running_loop().create_task(run())  # kept, so that it is not thrown away

    play.observe(pressed, "value")
    return play


def steppers(slider: widgets.IntSlider) -> widgets.HBox:
    """Two buttons side by side that move a slider one back, and one on."""
    buttons = []
    for by, name, icon in ((-1, "one step back", "step-backward"), (1, "one step on", "step-forward")):
        button = widgets.Button(description=name, icon=icon)
        button.on_click(lambda _, by=by: setattr(slider, "value", min(max(slider.value + by, slider.min), slider.max)))
        buttons.append(button)
    return widgets.HBox(buttons)


def spread(low: int, high: int, count: int, among: int) -> list[int]:
    """About `count` whole numbers from low to high, evenly spaced, `among` being one of them."""
    return sorted({among, *(round(low + i * (high - low) / (count - 1)) for i in range(count))})


def _name(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
