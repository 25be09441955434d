"""A training to look at in a notebook: its loss and ten samples as it goes on, and a button that saves and stops.

A click reaches Python during the training where the notebook sends it through a subshell of the kernel, a thread of
its own: JupyterLab since 4.4 and Notebook since 7.4, with ipykernel 7. Elsewhere (VS Code) a click waits for the end of
the cell; interrupting the kernel does the same, and works everywhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ipywidgets as widgets
import torch
from IPython import get_ipython
from IPython.display import HTML, DisplayHandle, display
from torch import Tensor

from ddpm_lib.errors import Stopped
from ddpm_lib.frames import Picture, beside, chart, picture, picture_html, tiles
from ddpm_lib.plotting import draw_curves, new_figure, smooth
from ddpm_lib.runs import Watch
from ddpm_lib.samplers import sample
from ddpm_lib.schedules import Schedule
from ddpm_lib.training import StepReport, TrainingState
from ddpm_lib.unet import UNet

EVERY = 3.0  # seconds between two pictures, at least
REST = 20  # a picture that took a second is followed by so many seconds of training: it costs less than a twentieth
HINT = (
    "Or interrupt the kernel (&#9632;), if your editor delivers clicks only after the cell."
    " Either way the training is saved, and running this cell again goes on from there."
)


@contextmanager
def training_view() -> Iterator[Watch | None]:
    """Shows a training to the reader of a notebook, and lets the reader stop it.

        with training_view() as watch:
            folder = short_training(data, steps=2500, watch=watch)

    Below the training's bar: a button, the smoothed loss, and ten samples of the averaged weights, each time from the
    same noise. The weights are those of an unwatched training, to the bit. The pictures take less than a twentieth of
    the time, but for the first and the last one.

    Where nobody could look or click (papermill, nbval, plain Python) there is None to watch with, and only the bar.

    Raises:
        Stopped: by the button or an interruption, once the step is done and saved. The same cell goes on from there.
    """
    if not _has_reader():
        yield None
        return
    view = _View()
    try:
        yield view
    except BaseException as end:
        view.say("stopped and saved" if isinstance(end, Stopped) else "ended by the error below")
        raise
    view.say(f"trained: {view.reports[-1].step:,} steps" if view.reports else "trained before: nothing was left to do")


def quick_samples(model: UNet, schedule: Schedule) -> Tensor:
    """`[10, 1, 28, 28]`: quick samples from always the same noise; of a conditional network one of each class."""
    y = None if model.num_classes is None else torch.arange(10)
    generator, steps = torch.Generator().manual_seed(0), min(10, schedule.T)
    return sample(model, schedule, 10, y, 0.0, "dpm_solver", steps, generator, clip_x_0=True)


class _View:
    """The outputs of one cell, each changed in its place: the controls, in the end a line of text; and the picture.

    As `watch` of a training it looks at every step, draws now and then, and tells whether to stop.
    """

    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self._due = 0.0  # when to draw again, on the clock of `time.monotonic`
        self._stop = threading.Event()  # the click comes in another thread
        self._controls: DisplayHandle | None = None
        self._picture: DisplayHandle | None = None

    def __call__(self, state: TrainingState, report: StepReport) -> bool:
        self.reports.append(report)
        stop, started = self._stop.is_set(), time.monotonic()
        if self._controls is None:
            self._controls = display(self._button(), display_id=True)
            self._due = started + EVERY
        if started >= self._due or stop or report.step == state.total_steps:
            self._show(_draw(self.reports, state))
            ended = time.monotonic()
            self._due = ended + max(EVERY, REST * (ended - started))
        return stop

    def say(self, words: str) -> None:
        """A line of text, in the place of the controls, which no longer do anything."""
        data = {"text/plain": words}
        if self._controls is None:
            display(data, raw=True)
        else:
            self._controls.update(data, raw=True)

    def _show(self, shown: Picture) -> None:
        output = HTML(picture_html(shown))  # JupyterLab gives a plain image no alt text
        if self._picture is None:
            self._picture = display(output, display_id=True)
        else:
            self._picture.update(output)

    def _button(self) -> widgets.Box:
        button = widgets.Button(description="Save and stop", icon="stop", layout={"width": "max-content"})
        button.on_click(self._clicked)
        # Since 7.4 ipykernel takes a click to the thread in which the button was made, whatever the notebook asks for:
        # here to the one that trains. It forgets that thread (other versions have nothing to forget).
        vars(button.comm).pop("_reply_subshell_id", None)
        return widgets.VBox([button, widgets.HTML(HINT)])

    def _clicked(self, button: widgets.Button) -> None:
        self._stop.set()
        button.disabled, button.description = True, "Saving …"


def _draw(reports: Sequence[StepReport], state: TrainingState) -> Picture:
    step, window = reports[-1].step, max(1, min(100, len(reports) // 20))
    losses = smooth([report.loss for report in reports], window)
    figure, axes = new_figure(width=4.8, height=2.4)
    label = "loss" if window == 1 else f"loss, mean of {window}"
    draw_curves(axes[0, 0], {"loss": ([report.step for report in reports], losses)}, "step", label, log_y=True)
    images = quick_samples(state.averages["ema"].model, state.schedule)
    alt = "Left: the loss over the steps so far. Right: ten samples of the averaged weights."
    caption = f"step {step:,} of {state.total_steps:,}, loss {losses[-1]:.3f}; ten samples from always the same noise"
    return picture(beside(chart(figure), tiles([images[:5], images[5:]], scale=3)), alt, caption)


def _has_reader() -> bool:
    """Programs that run notebooks (papermill, nbval, Voila) say with each cell that nobody is there to answer it."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))
