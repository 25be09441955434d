"""Who watches a training sees it and can stop it, and changes nothing else; where nobody looks on, nothing hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import nbformat
import pytest
import torch
from IPython.display import HTML
from stopping import DATA, assert_same_run, quiet_fit, step_of
from tiny import tiny_config

from ddpm_lib import training_view as module
from ddpm_lib.errors import InputError, Stopped
from ddpm_lib.execution import execute
from ddpm_lib.run_files import STATE
from ddpm_lib.runs import Watch, fit_cached
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.training import StepReport, TrainingState
from ddpm_lib.training_view import quick_samples, training_view
from ddpm_lib.unet import UNet


class Outputs:
    """A cell's outputs, in the place of IPython's `display`."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.updates = 0

    def display(self, output: Any, raw: bool = False, display_id: bool = False) -> SimpleNamespace:
        assert raw == isinstance(output, dict)
        place = len(self.shown)
        self.shown.append(output)

        def update(output: Any, raw: bool = False) -> None:
            assert raw == isinstance(output, dict)
            self.shown[place] = output
            self.updates += 1

        return SimpleNamespace(update=update)

    @property
    def button(self) -> widgets.Button:
        (box,) = (output for output in self.shown if isinstance(output, widgets.VBox))
        return box.children[0]


def kernel(monkeypatch: pytest.MonkeyPatch, reader: bool) -> Outputs:
    """From now on this process takes itself for a notebook's kernel."""
    outputs = Outputs()
    request = {"content": {"allow_stdin": reader}}
    shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: request))
    monkeypatch.setattr(module, "get_ipython", lambda: shell)
    monkeypatch.setattr(module, "display", outputs.display)
    return outputs


@pytest.fixture
def outputs(monkeypatch) -> Outputs:
    return kernel(monkeypatch, reader=True)


def clicking_at(step: int, outputs: Outputs, watch: Watch) -> Watch:
    """`watch`, with a click on the button, in another thread, just before it sees that step."""

    def clicked(state: TrainingState, report: StepReport) -> bool:
        if report.step == step:
            thread = threading.Thread(target=outputs.button.click)
            thread.start()
            thread.join()
        return watch(state, report)

    return clicked


def assert_words_and_picture(outputs: Outputs, words: str, step: str) -> None:
    text, picture = outputs.shown  # no button is left that would do nothing
    assert text == {"text/plain": words}
    assert isinstance(picture, HTML)
    assert 'alt="Left: the loss over the steps so far. Right: ten samples' in picture.data
    assert f"<figcaption>step {step}, loss " in picture.data


# --- with a reader


def test_a_watched_training_gives_the_same_bits(outputs, tmp_path, straight):
    with training_view() as watch:
        quiet_fit(tmp_path, watch=watch)
    assert_same_run(tmp_path, straight)
    assert_words_and_picture(outputs, "trained: 6 steps", "6 of 6")


def test_the_button_saves_and_stops_and_the_same_call_goes_on(outputs, monkeypatch, tmp_path, straight):
    with pytest.raises(Stopped, match="stopped at step 3"), training_view() as watch:
        quiet_fit(tmp_path, watch=clicking_at(3, outputs, watch))
    assert step_of(tmp_path / STATE) == 3
    assert_words_and_picture(outputs, "stopped and saved", "3 of 6")
    again = kernel(monkeypatch, reader=True)
    with training_view() as watch:
        quiet_fit(tmp_path, watch=watch)
    assert_same_run(tmp_path, straight)
    assert_words_and_picture(again, "trained: 6 steps", "6 of 6")


def test_a_click_shows_that_it_was_heard(outputs):
    state = SimpleNamespace(
        total_steps=9, schedule=linear_schedule(1000), averages={"ema": SimpleNamespace(model=UNet().eval())}
    )
    with training_view() as watch:
        assert watch(state, StepReport(1, 0.1, 1.0, 1e-3, 100.0)) is False
        button = outputs.button
        button.click()
        assert button.disabled
        assert button.description == "Saving …"
        assert watch(state, StepReport(2, 0.2, 1.0, 1e-3, 100.0)) is True


def test_a_finished_training_says_so_and_an_error_goes_on_to_the_reader(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    fit_cached(tiny_config(epochs=0.25), DATA, progress=False)
    outputs = kernel(monkeypatch, reader=True)
    with training_view() as watch:
        fit_cached(tiny_config(epochs=0.25), DATA, progress=False, watch=watch)
    assert outputs.shown == [{"text/plain": "trained before: nothing was left to do"}]
    outputs = kernel(monkeypatch, reader=True)
    with pytest.raises(InputError, match="keep asks for step 7"), training_view() as watch:
        quiet_fit(tmp_path / "run", keep=[7], watch=watch)
    assert outputs.shown == [{"text/plain": "ended by the error below"}]


@pytest.mark.parametrize("cost", [0.0, 0.1, 5.0])
def test_pictures_come_every_three_seconds_at_most_and_cost_less_than_a_twentieth(outputs, monkeypatch, cost):
    clock, drawn = SimpleNamespace(now=100.0), []

    def draw(*_: Any) -> module.Picture:
        drawn.append(clock.now)
        clock.now += cost
        return module.Picture(b"", "a picture", "")

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(module, "_draw", draw)
    monkeypatch.setattr(module, "picture_html", lambda shown: shown.alt)
    state = SimpleNamespace(total_steps=10_000)
    with training_view() as watch:
        for step in range(1, 5001):
            clock.now += 0.1
            watch(state, StepReport(step, step / 100, 1.0, 1e-3, 100.0))
        assert len(outputs.shown) == 2  # each in its place
        assert outputs.updates == len(drawn) - 1
    assert len(drawn) > 2
    assert cost * (len(drawn) - 1) < 0.05 * (
        clock.now - 100
    )  # the first one comes after three seconds, whatever it costs
    assert min(later - earlier for earlier, later in pairwise(drawn)) >= 3.0 - 1e-6


def test_samples_show_the_same_noise_each_time_and_of_a_conditional_network_every_class():
    schedule, asked = linear_schedule(1000), []

    class Spy(UNet):
        def forward(self, x_t: torch.Tensor, t: torch.Tensor, y: Any = None, drop: Any = None) -> torch.Tensor:
            asked.append(y)
            return super().forward(x_t, t, y, drop)

    torch.manual_seed(0)
    model = Spy(num_classes=10).eval()
    before = torch.get_rng_state()
    first = quick_samples(model, schedule)
    assert torch.equal(quick_samples(model, schedule), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (10, 1, 28, 28)
    assert first.abs().max() <= 1
    assert len(asked) == 20
    assert asked[0].tolist() == list(range(10))


# --- without a reader


def test_in_plain_python_and_for_a_program_that_runs_notebooks_there_is_nothing_to_watch_with(monkeypatch):
    with training_view() as watch:
        assert watch is None
    outputs = kernel(monkeypatch, reader=False)
    with training_view() as watch:
        assert watch is None
    assert outputs.shown == []


def test_papermill_is_such_a_program(make_notebook: Callable[..., Path], tmp_path):
    code = "from ddpm_lib.training_view import training_view\nwith training_view() as watch:\n    print(watch)"
    path = make_notebook(tmp_path / "a.ipynb", code)
    assert execute(path, tmp_path / "b.ipynb", {}) is None
    (output,) = nbformat.read(tmp_path / "b.ipynb", 4).cells[1].outputs
    assert output.text == "None\n"
