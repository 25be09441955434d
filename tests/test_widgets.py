"""The sliders without a network show what the library computes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_data

from ddpm_lib import widgets
from ddpm_lib.diffusion import q_sample
from ddpm_lib.embedding import timestep_embedding
from ddpm_lib.frames import Picture, tiles
from ddpm_lib.live import STREAM, Explorer
from ddpm_lib.schedules import cosine_schedule, linear_schedule
from ddpm_lib.training import generator_for

IMAGES = tiny_data(3).images
SCHEDULE = linear_schedule()


def pixels(shown: Picture | Image.Image) -> np.ndarray:
    image = Image.open(io.BytesIO(shown.png)) if isinstance(shown, Picture) else shown
    return np.asarray(image.convert("RGB"))


def noised(x_0: torch.Tensor, t: int, seed: int) -> torch.Tensor:
    eps = torch.randn(x_0.shape, generator=generator_for(seed, STREAM))
    return q_sample(x_0, torch.tensor([t]), eps, SCHEDULE)


@pytest.fixture
def noising() -> Explorer:
    return widgets.noising(IMAGES, ["a", "b", "c"], SCHEDULE)


def move(explorer: Explorer, **values) -> Picture:
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer._message.value == ""
    return explorer.picture


@pytest.mark.parametrize(("image", "t", "seed"), [(0, 0, 0), (2, 299, 5), (1, 999, 99)])
def test_noising_shows_q_sample(noising: Explorer, image: int, t: int, seed: int):
    shown = move(noising, image=image, t=t, seed=seed)
    x_0 = IMAGES[image : image + 1]
    expected = pixels(tiles([torch.cat([x_0, noised(x_0, t, seed)])], column_labels=["x_0", f"x_{t}"], scale=5))
    whole = pixels(shown)
    top = (whole.shape[0] - expected.shape[0]) // 2
    np.testing.assert_array_equal(whole[top : top + expected.shape[0], : expected.shape[1]], expected)


def test_noising_reads_out_the_two_weights(noising: Explorer):
    abar = SCHEDULE.alpha_bars[500]
    caption = move(noising, t=500).caption
    assert caption == f"t = 500: {abar.sqrt():.3f} of the picture and {(1 - abar).sqrt():.3f} of unit noise"


def test_the_same_values_give_the_same_picture(noising: Explorer):
    first = move(noising, t=500, seed=3)
    assert move(noising, t=100, seed=4) != first
    assert move(noising, seed=3, t=500) == first


def test_noisings_frames_run_over_the_whole_chain(noising: Explorer):
    assert (noising.positions[0], noising.positions[-1]) == (0, 999)
    assert 300 in noising.positions
    assert 12 <= len(noising.positions) <= 20


@pytest.mark.parametrize(
    ("values", "schedule"),
    [
        ({}, linear_schedule()),
        ({"T": 100, "beta_start": 1e-3, "beta_end": 0.2}, linear_schedule(100, 1e-3, 0.2)),
        ({"kind": "cosine", "T": 500}, cosine_schedule(500)),
    ],
    ids=["linear", "shorter", "cosine"],
)
def test_schedules_shows_the_chain_of_the_chosen_one(values: dict, schedule):
    explorer = widgets.schedules(IMAGES)
    shown = move(explorer, **values) or explorer.frames[explorer.positions.index(1000)]
    times = torch.linspace(0, 1, 8, dtype=torch.float64).mul(schedule.T - 1).round().long()
    eps = torch.randn(IMAGES.shape, generator=generator_for(0, STREAM))
    rows = [
        q_sample(x_0.expand(8, -1, -1, -1), times, noise.expand(8, -1, -1, -1), schedule)
        for x_0, noise in zip(IMAGES, eps, strict=True)
    ]
    expected = pixels(tiles(rows, column_labels=[f"t = {t}" for t in times], scale=3))
    np.testing.assert_array_equal(pixels(shown)[-expected.shape[0] :, : expected.shape[1]], expected)
    assert f"alpha_bar = {schedule.alpha_bars[-1]:.2g}" in shown.caption


def test_a_schedule_that_cannot_be_is_refused_in_words():
    explorer = widgets.schedules(IMAGES)
    explorer.controls["beta_end"].value = 1.0
    assert "betas[999] is 1.0; every beta must lie inside (0, 1)" in explorer._message.value
    move(explorer, beta_end=0.5)


def test_cosine_takes_no_betas():
    explorer = widgets.schedules(IMAGES)
    for kind in ("cosine", "linear"):
        move(explorer, kind=kind)
        assert explorer.controls["beta_start"].disabled == explorer.controls["beta_end"].disabled == (kind == "cosine")


@pytest.mark.parametrize(("t", "width"), [(300, 128), (999, 2), (0, 256)])
def test_embedding_reads_out_its_distances(t: int, width: int):
    every = timestep_embedding(torch.arange(1000), width)
    distance = (every - every[t]).square().sum(1).sqrt()
    caption = move(widgets.embedding(t=10), t=t, width=width).caption
    near, far = distance[t + 1 if t < 999 else t - 1], distance.max()
    assert caption == f"t = {t} in {width} numbers: distance to the next timestep {near:.2f}, to the farthest {far:.2f}"
