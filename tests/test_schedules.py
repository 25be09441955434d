"""Schedules: their formulas, their agreement with diffusers, where t starts, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from tiny import refused
from torch.testing import assert_close

from ddpm_lib.config import Config
from ddpm_lib.schedules import (
    Schedule,
    check_timesteps,
    cosine_schedule,
    extract,
    linear_schedule,
    make_schedule,
)

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
@pytest.mark.parametrize("T", [2, 100, 1000])
def test_alpha_bars_agree_with_diffusers(name, T):
    theirs = DDPMScheduler(T, beta_start=1e-4, beta_end=0.02, beta_schedule=DIFFUSERS_NAMES[name])
    ours = SCHEDULES[name](T)
    assert_close(ours.betas.float(), theirs.betas, rtol=1e-5, atol=1e-7)
    assert_close(ours.alpha_bars.float(), theirs.alphas_cumprod, rtol=1e-5, atol=1e-5)


def test_the_linear_schedule_is_the_reports_formula():
    N, beta_init, beta_end = 1000, 1e-4, 0.02
    formula = [beta_init + i / (N - 1) * (beta_end - beta_init) for i in range(N)]
    assert_close(linear_schedule().betas, torch.tensor(formula, dtype=torch.float64))


def test_the_cosine_schedule_is_the_papers_formula_until_the_last_step():
    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    formula = torch.tensor([f(t) / f(0) for t in range(1, 1000)], dtype=torch.float64)
    assert_close(cosine_schedule().alpha_bars[:-1], formula)


def test_cosine_schedule_stays_finite():
    # The formula's last alpha_bar is 0: 1 / sqrt(alpha_bar) and log-SNR would be infinite there.
    schedule = cosine_schedule()
    assert float(schedule.betas[-1]) == 0.999
    assert float(schedule.alpha_bars[-1]) > 0
    for values in (schedule.alpha_bars.rsqrt(), schedule.log_snr, schedule.posterior_variance):
        assert bool(values.isfinite().all())


def test_t_counts_from_zero():
    # The report's abar_1, one step of noise, is alpha_bars[0]; its abar_T is the last.
    schedule = linear_schedule(1000, 1e-4, 0.02)
    assert float(schedule.alpha_bars[0]) == 1 - 1e-4
    assert_close(float(schedule.alpha_bars[-1]), 4.0e-5, rtol=0.01, atol=0)
    assert len(schedule.alpha_bars) == schedule.T == 1000


@every_schedule
def test_alpha_bars_are_the_running_product(name):
    schedule = SCHEDULES[name](50)
    for t in range(50):
        assert_close(float(schedule.alpha_bars[t]), math.prod((1 - schedule.betas[: t + 1]).tolist()))
    assert float(schedule.alpha_bars_prev[0]) == 1
    assert_close(schedule.alpha_bars_prev[1:], schedule.alpha_bars[:-1])


@every_schedule
def test_the_signal_only_fades(name):
    schedule = SCHEDULES[name](1000)
    for values in (schedule.alpha_bars, schedule.snr, schedule.log_snr):
        assert bool((values.diff() < 0).all())


@every_schedule
def test_the_snr_is_the_signals_variance_over_the_noises(name):
    schedule = SCHEDULES[name](1000)
    assert_close(schedule.snr * (1 - schedule.alpha_bars), schedule.alpha_bars)
    assert_close(schedule.log_snr.exp(), schedule.snr)
    # So alpha_bar is the logistic function of the log-SNR: what Algorithm 3 is written in.
    assert_close(torch.sigmoid(schedule.log_snr), schedule.alpha_bars)


@every_schedule
def test_the_noise_level_is_the_noise_beside_a_signal_of_size_one(name):
    schedule = SCHEDULES[name](1000)
    x_0, eps = torch.tensor([0.7, -1.3], dtype=torch.float64)
    x_t = schedule.alpha_bars.sqrt() * x_0 + (1 - schedule.alpha_bars).sqrt() * eps
    assert_close(x_t / schedule.alpha_bars.sqrt(), x_0 + schedule.noise_levels * eps)
    assert_close(schedule.noise_levels, torch.exp(-schedule.log_snr / 2))
    assert bool((schedule.noise_levels.diff() > 0).all())


@every_schedule
def test_posterior_variance_is_zero_at_the_first_step(name):
    assert float(SCHEDULES[name](1000).posterior_variance[0]) == 0


@every_schedule
def test_posterior_variance_agrees_with_diffusers(name):
    theirs = DDPMScheduler(
        100, beta_start=1e-4, beta_end=0.02, beta_schedule=DIFFUSERS_NAMES[name], variance_type="fixed_small"
    )
    ours = SCHEDULES[name](100).posterior_variance
    assert_close(ours[1:].float(), torch.stack([theirs._get_variance(t) for t in range(1, 100)]), rtol=0, atol=1e-5)


@every_schedule
def test_posterior_variance_is_below_beta(name):
    schedule = SCHEDULES[name](1000)
    assert bool((schedule.posterior_variance < schedule.betas).all())


def test_make_schedule_follows_the_config():
    config = Config(T=10, beta_start=0.01, beta_end=0.1)
    assert_close(make_schedule(config).betas, linear_schedule(10, 0.01, 0.1).betas)
    assert_close(make_schedule(config.replace(schedule="cosine")).betas, cosine_schedule(10).betas)


def test_coefficients_are_float64_whatever_the_betas_were():
    schedule = Schedule(torch.tensor([0.1, 0.2], dtype=torch.float32))
    assert schedule.alpha_bars.dtype == schedule.posterior_variance.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_extract_gives_each_sample_its_own_number_in_the_images_dtype(dtype, index):
    values = torch.arange(10, dtype=torch.float64)
    numbers = extract(values, torch.tensor([7, 0, 7], dtype=index), torch.zeros(3, 1, 28, 28, dtype=dtype))
    assert_close(numbers, torch.tensor([7, 0, 7], dtype=dtype).reshape(3, 1, 1, 1))


def _extract(t, T=10, batch=2):
    return lambda: extract(torch.zeros(T), t, torch.zeros(batch, 1, 28, 28))


BAD = {
    "T 1": (lambda: linear_schedule(1), ["T is 1", "at least 2"]),
    "T 0": (lambda: cosine_schedule(0), ["T is 0", "at least 2"]),
    "T a float": (lambda: linear_schedule(100.0), ["T is 100.0", "whole number"]),
    "T a bool": (lambda: cosine_schedule(True), ["T is True", "whole number"]),
    "beta 0": (lambda: linear_schedule(10, 0.0, 0.02), ["betas[0] is 0.0", "inside (0, 1)"]),
    "beta 1": (lambda: linear_schedule(10, 0.1, 1.0), ["betas[9] is 1.0", "inside (0, 1)"]),
    "beta negative": (lambda: Schedule(torch.tensor([0.1, -0.1])), ["betas[1] is -0.1", "inside (0, 1)"]),
    "beta NaN": (lambda: Schedule(torch.tensor([0.1, math.nan])), ["betas[1] is nan", "inside (0, 1)"]),
    "max_beta 1": (lambda: cosine_schedule(10, max_beta=1.0), ["betas[9] is 1.0", "inside (0, 1)"]),
    "one beta": (lambda: Schedule(torch.tensor([0.1])), ["shape [1]", "T >= 2"]),
    "a matrix of betas": (lambda: Schedule(torch.full((2, 2), 0.1)), ["shape [2, 2]", "[T]"]),
    "t T": (_extract(torch.tensor([0, 10])), ["timestep 10", "0 … 9", "from 0"]),
    "t -1": (_extract(torch.tensor([-1, 3])), ["timestep -1", "0 … 9"]),
    "t a float": (_extract(torch.tensor([1.0, 2.0])), ["torch.float32 [2]", "int64"]),
    "t a bool": (_extract(torch.tensor([True, False])), ["torch.bool [2]", "int64"]),
    "t uint8, which would be a mask": (_extract(torch.zeros(2, dtype=torch.uint8)), ["torch.uint8 [2]", "int64"]),
    "t a number": (_extract(3), ["int", "torch.tensor([0, 9])"]),
    "t without a batch": (_extract(torch.tensor(3)), ["torch.int64 []", "[B]"]),
    "t for another batch": (_extract(torch.tensor([1, 2, 3])), ["3 timesteps", "batch of 2"]),
    "t a list": (lambda: check_timesteps([1, 2], 10), ["list", "int64"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
