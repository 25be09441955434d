"""The time embedding: its formula, its order, its agreement with diffusers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from tiny import refused
from torch.testing import assert_close

from ddpm_lib.embedding import timestep_embedding
from ddpm_lib.errors import InputError

ALL_T = torch.arange(1000)


@pytest.mark.parametrize("dim", [2, 8, 128])
def test_agrees_with_diffusers(dim):
    # diffusers' default divides the exponent by dim/2 - 1; downscale_freq_shift=0 is the report's dim/2.
    theirs = get_timestep_embedding(ALL_T, dim, flip_sin_to_cos=False, downscale_freq_shift=0)
    # Angles reach 1,000, where neighbouring float32 numbers are 6e-5 apart.
    assert_close(timestep_embedding(ALL_T, dim), theirs, rtol=0, atol=2e-4)


def test_the_formula_in_float64():
    dim = 8
    exact = torch.tensor(
        [[f(t / 10000 ** (2 * i / dim)) for f in (math.sin, math.cos) for i in range(dim // 2)] for t in range(1000)]
    )
    assert_close(timestep_embedding(ALL_T, dim), exact, rtol=0, atol=2e-4)


def test_sines_come_first_then_cosines():
    # At t = 0 every sine is 0 and every cosine 1. The report says "alternates"; its formula concatenates.
    assert_close(timestep_embedding(torch.tensor([0]), 6), torch.tensor([[0.0, 0, 0, 1, 1, 1]]))


def test_frequencies_fall_from_one_radian_a_step_to_nearly_one_in_ten_thousand():
    sines = timestep_embedding(torch.tensor([1]), 128)[0, :64].double()
    frequencies = torch.asin(sines)
    assert_close(float(frequencies[0]), 1.0, rtol=1e-6, atol=0)
    ratios = frequencies[1:] / frequencies[:-1]
    assert_close(ratios, torch.full_like(ratios, 10000 ** (-1 / 64)), rtol=1e-5, atol=0)


def test_every_timestep_has_its_own_embedding():
    emb = timestep_embedding(ALL_T)
    distances = torch.cdist(emb, emb) + 9 * torch.eye(1000)
    assert float(distances.min()) > 0.1


def test_sine_and_cosine_lie_on_circles():
    sines, cosines = timestep_embedding(ALL_T).chunk(2, dim=1)
    assert_close(sines**2 + cosines**2, torch.ones(1000, 64))


def test_times_between_two_steps_are_welcome():
    emb = timestep_embedding(torch.tensor([2.5]), 2)
    assert_close(emb, torch.tensor([[math.sin(2.5), math.cos(2.5)]]))
    assert emb.dtype == torch.float32


@pytest.mark.parametrize("dim", [1, 3, 127])
def test_odd_width_is_refused(dim):
    with pytest.raises(InputError, match=rf"width is {dim}; it must be an even number, at least 2"):
        timestep_embedding(ALL_T, dim)


BAD = {
    "dim 0": (lambda: timestep_embedding(ALL_T, 0), ["width is 0", "at least 2"]),
    "dim negative": (lambda: timestep_embedding(ALL_T, -2), ["width is -2", "at least 2"]),
    "dim a float": (lambda: timestep_embedding(ALL_T, 128.0), ["width is 128.0", "even number"]),
    "dim a bool": (lambda: timestep_embedding(ALL_T, True), ["width is True", "even number"]),
    "t without a batch": (lambda: timestep_embedding(torch.tensor(3)), ["shape []", "[B]"]),
    "t a matrix": (lambda: timestep_embedding(torch.zeros(2, 1)), ["shape [2, 1]", "[B]"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
