"""The sliders with a network show what its samplers give, and compute nothing twice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ddpm_lib import model_widgets, samplers
from ddpm_lib.films import Film, noise, quick, together
from ddpm_lib.frames import below, tiles
from ddpm_lib.live import STREAM, Explorer
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.training import generator_for

SCHEDULE = linear_schedule(50)
NAMES = ["bag", "boot", "coat"]


class Denoiser(nn.Module):
    """As small as a conditional network can be; counts its evaluations."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 28, 28, generator=torch.Generator().manual_seed(0)))
        self.calls = 0
        self.formats: set[torch.dtype] = set()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        self.calls += 1
        label = torch.full((len(x),), 3) if y is None else y if drop is None else torch.where(drop, 3, y)
        self.formats.add((x.flatten(1) @ self.weight.flatten(1).T).dtype)
        return torch.tanh(x + 0.3 * self.weight[label][:, None] + t[:, None, None, None] / 100)


@pytest.fixture
def model() -> Denoiser:
    return Denoiser()


def pixels(explorer: Explorer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(explorer.picture.png)).convert("RGB"))


def move(explorer: Explorer, **values) -> np.ndarray:
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer._message.value == ""
    return pixels(explorer)


def solve(model: nn.Module, seed: int, label: int, w: float, steps: int, n: int) -> Tensor:
    sampler = partial(samplers.dpm_solver, clip_x_0=True)
    *_, last = sampler(quick(model), noise(n, seed), SCHEDULE, torch.full((n,), label), w, steps)
    return last.x


def test_denoising_shows_each_step_of_the_sampler(model: Denoiser):
    explorer = model_widgets.denoising(model, SCHEDULE, torch.tensor([0, 1]), steps=10, n=2)
    generator = generator_for(7, STREAM, 1)
    x_T = noise(2, 7)
    steps = list(samplers.ancestral(quick(model), x_T, SCHEDULE, torch.tensor([0, 1]), steps=10, generator=generator))
    for index in (1, 6, 4, 10):
        before = x_T if index == 1 else steps[index - 2].x
        step = steps[index - 1]
        rows = list(torch.stack([before, step.eps / 3, step.x_0, step.x], dim=1))
        expected = tiles(rows, column_labels=["x_t", "predicted ε", "x_0 by it", "next x"], scale=5)
        shown = move(explorer, seed=7, step=index)
        np.testing.assert_array_equal(shown, np.asarray(expected.convert("RGB")))
        assert f"step {index} of 10: the network looks at t = {step.t}" in explorer.picture.caption


def test_a_step_back_computes_nothing(model: Denoiser):
    explorer = model_widgets.denoising(model, SCHEDULE, steps=10, n=2)
    move(explorer, step=8)
    assert model.calls == 8
    move(explorer, step=3)
    move(explorer, step=8)
    assert model.calls == 8
    move(explorer, step=9)
    assert model.calls == 9


def test_guidance_shows_samples_at_both_weights(model: Denoiser):
    explorer = model_widgets.guidance(model, SCHEDULE, NAMES, n=2)
    shown = move(explorer, label=1, seed=3, steps=6, w=3.5, other_w=-1.0)
    rows = [solve(model, 3, 1, w, 6, 2) for w in (3.5, -1.0)]
    expected = np.asarray(tiles(rows, row_labels=["w = 3.5", "w = -1"], scale=2).convert("RGB"))
    np.testing.assert_array_equal(shown[: expected.shape[0], : expected.shape[1]], expected)
    assert explorer.picture.caption.startswith("boot: ")


def test_a_guidance_drag_computes_only_its_own_row(model: Denoiser):
    explorer = model_widgets.guidance(model, SCHEDULE, NAMES, n=2)
    move(explorer, w=1.0)
    before = model.calls
    move(explorer, w=1.5)
    assert model.calls == before + explorer.first["steps"]  # the other row and the arrows are there
    move(explorer, w=1.0)
    assert model.calls == before + explorer.first["steps"]


def test_guidances_arrows_are_what_guidance_adds_up(model: Denoiser, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(model_widgets, "arrows", lambda tips, *_, **__: drawn.append(tips) or Image.new("RGB", (9, 9)))
    explorer = model_widgets.guidance(model, SCHEDULE, NAMES, n=2)
    move(explorer, w=4.0)
    (way, _, _), *every, (guided, _, _), (conditional, _, _) = drawn[-1]
    torch.testing.assert_close(torch.tensor(way), 9 * torch.tensor(conditional))
    assert [place for place, _, _ in every][2] == conditional  # the class chosen first is the last one
    torch.testing.assert_close(torch.tensor(guided), 5 * torch.tensor(conditional))
    index, steps = 3, explorer.first["steps"]
    *_, third = (step for step, _ in zip(model_film(model, steps), range(index), strict=False))
    t = samplers.spaced_timesteps(50, steps, "quadratic")[index]
    x_t = third.x[:1]
    eps = [quick(model)(x_t, torch.tensor([t]), torch.tensor([y])).flatten() for y in range(3)]
    without = quick(model)(x_t, torch.tensor([t])).flatten()
    lengths = [torch.linalg.vector_norm(one - without) for one in eps]
    for (place, _, _), length in zip(every, lengths, strict=True):
        assert torch.linalg.vector_norm(torch.tensor(place)) <= length * 1.01  # a projection shortens
    assert min(conditional) >= 0


def model_film(model: nn.Module, steps: int) -> Iterator[samplers.SampleStep]:
    sampler = partial(samplers.dpm_solver, clip_x_0=True)
    return sampler(quick(model), noise(2, 0), SCHEDULE, torch.full((2,), 2), 0.0, steps)


def test_averages_shows_both_weights_from_the_same_noise():
    networks = {}
    for index, name in enumerate(("raw", "0.9", "0.99")):
        for epoch in (1, 2):
            networks[name, epoch] = Denoiser()
            networks[name, epoch].weight.data += index + epoch / 10
    explorer = model_widgets.averages(
        lambda epoch: networks["raw", epoch],
        {name: lambda epoch, name=name: networks[name, epoch] for name in ("0.9", "0.99")},
        [1, 2],
        SCHEDULE,
        torch.full((2,), 1),
        n=2,
        steps=4,
    )
    shown = move(explorer, average="0.99", moment=1, seed=5)
    rows = [solve(networks[name, 1], 5, 1, 0.0, 4, 2) for name in ("raw", "0.99")]
    expected = tiles(rows, row_labels=["raw", "0.99"], scale=2)
    np.testing.assert_array_equal(shown, np.asarray(expected.convert("RGB")))
    assert "epoch 1" in explorer.picture.caption


def test_race_shows_every_sampler_after_as_many_evaluations(model: Denoiser):
    runners = {"ddim": samplers.ddim, "noisy": partial(samplers.ancestral, v=1.0)}
    explorer = model_widgets.race(model, SCHEDULE, runners, steps=5, n=2)
    for index in (2, 5):
        now = []
        for sampler in runners.values():
            run = sampler(quick(model), noise(2, 4), SCHEDULE, steps=5, generator=generator_for(4, STREAM, 1))
            now.append(list(run)[index - 1])
        labels = [f"{name}, t = {step.t}" for name, step in zip(runners, now, strict=True)]
        expected = tiles([step.x_0 for step in now], row_labels=labels, scale=2)
        np.testing.assert_array_equal(move(explorer, seed=4, step=index), np.asarray(expected.convert("RGB")))


def test_a_new_drawing_shows_previews_from_the_same_run(model: Denoiser):
    explorer = model_widgets.guidance(model, SCHEDULE, NAMES, n=2)
    captions = []
    explorer._view.observe(lambda change: captions.append(change.new), "value")
    move(explorer, seed=1)
    assert len(captions) == 2  # after three steps and at the end
    assert captions[-1] != captions[0]


def test_a_film_begins_anew_after_an_error():
    wrong = [True]

    def sampling() -> Iterator[samplers.SampleStep]:
        for index in (1, 2, 3):
            if index == 2 and wrong.pop() if wrong else False:
                raise MemoryError("too large")
            yield samplers.SampleStep(index, 3, 3 - index, *[torch.full((1, 1, 28, 28), float(index))] * 3)

    film = Film(torch.zeros(1, 1, 28, 28), sampling)
    with pytest.raises(MemoryError):
        list(film.until(3))
    list(film.until(3))
    assert [step.index for step in film.steps] == [1, 2, 3]
    assert float(film.before(1).max()) == 0
    assert float(film.before(3).max()) == 2


def test_films_go_together_and_stop_for_a_look_now_and_then_and_at_the_end(model: Denoiser):
    films = [Film(x := noise(1, 0), lambda: samplers.ddim(model, x, SCHEDULE, steps=11)) for _ in range(2)]
    looks, done = [], 0
    for look in together(films, 11):
        first, second = (len(film.steps) for film in films)
        assert abs(first - second) <= 1
        assert first + second <= done + 1  # the kernel hears the reader after every evaluation
        done = first + second
        looks += [look] * (look is not None)
    assert looks == [3, 11]  # not after the ninth: the end is near
    assert [look for look in together(films, 11) if look is not None] == [11]  # nothing is new: the end at once


@pytest.mark.parametrize(("precision", "inside"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_quick_computes_in_the_chosen_format_and_answers_in_fp32(
    model: Denoiser, monkeypatch: pytest.MonkeyPatch, precision: str, inside: torch.dtype
):
    monkeypatch.setattr("ddpm_lib.films.choose_precision", lambda *_: precision)
    answer = quick(model)(torch.zeros(1, 1, 28, 28), torch.tensor([3]))
    assert answer.dtype == torch.float32
    assert model.formats == {inside}


def test_the_output_without_a_kernel_holds_the_same_pictures(model: Denoiser):
    explorer = model_widgets.guidance(model, SCHEDULE, NAMES, n=2)
    data, _ = explorer._repr_mimebundle_()
    rows = [solve(model, 0, 2, w, explorer.first["steps"], 2) for w in (2.0, 0.0)]
    expected = tiles(rows, row_labels=["w = 2", "w = 0"], scale=2)
    still = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB"))
    np.testing.assert_array_equal(still[: expected.height, : expected.width], np.asarray(below(expected)))
    assert len(explorer.frames) == 8
