"""The forward process, its posterior and the loss: against the chain, against Bayes, against diffusers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from tiny import refused, their_scheduler
from torch import Tensor
from torch.testing import assert_close

from ddpm_lib.diffusion import denoising_loss, posterior, predict_eps, predict_x_0, q_sample
from ddpm_lib.schedules import Schedule, cosine_schedule, linear_schedule

LINEAR = linear_schedule()
both = pytest.mark.parametrize("name", ["linear", "cosine"])


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


T = torch.tensor([0, 1, 2, 10, 250, 500, 998, 999])
X_0 = noise(8, 1, 28, 28, seed=1).clamp(-1, 1)
EPS = noise(8, 1, 28, 28, seed=2)


# --- q_sample


def test_closed_form_has_the_chains_mean_and_variance():
    # 40,000 walks of 50 steps from x_0 = 0.7, noised one beta at a time.
    schedule, x_0, walks = linear_schedule(50, 0.001, 0.2), 0.7, 40_000
    generator = torch.Generator().manual_seed(0)
    x = torch.full((walks,), x_0, dtype=torch.float64)
    for t, beta in enumerate(schedule.betas):
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(walks, generator=generator, dtype=torch.float64)
        mean = q_sample(torch.full((1, 1), x_0), torch.tensor([t]), torch.zeros(1, 1), schedule)
        std = q_sample(torch.zeros(1, 1), torch.tensor([t]), torch.ones(1, 1), schedule)
        # Four standard errors: of a mean std / sqrt(n), of a standard deviation std / sqrt(2 n).
        assert abs(float(x.mean() - mean)) < 4 * float(std) / walks**0.5
        assert abs(float(x.std() - std)) < 4 * float(std) / (2 * walks) ** 0.5


def test_the_variances_of_the_chain_add_up_exactly():
    mean_sq, variance = 1.0, 0.0
    for t, beta in enumerate(LINEAR.betas.tolist()):
        mean_sq, variance = (1 - beta) * mean_sq, (1 - beta) * variance + beta
        assert_close(mean_sq, float(LINEAR.alpha_bars[t]))
        assert_close(variance, 1 - float(LINEAR.alpha_bars[t]))


def test_q_sample_uses_alpha_bar_not_alpha():
    # The report printed alpha_t. With it, 99 % of the signal would still be there at the end.
    x_T = q_sample(X_0[:1], torch.tensor([999]), EPS[:1], LINEAR)
    assert_close(x_T, EPS[:1], rtol=0, atol=0.01)
    assert float(LINEAR.alphas[999].sqrt()) > 0.98


@both
def test_q_sample_agrees_with_diffusers(name):
    theirs = DDPMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[name]
    )
    ours = {"linear": linear_schedule, "cosine": cosine_schedule}[name]()
    assert_close(q_sample(X_0, T, EPS, ours), theirs.add_noise(X_0, EPS, T), rtol=1e-5, atol=1e-5)


def test_each_sample_has_its_own_t():
    x_t = q_sample(X_0, T, EPS, LINEAR)
    for i in range(len(T)):
        assert_close(x_t[i : i + 1], q_sample(X_0[i : i + 1], T[i : i + 1], EPS[i : i + 1], LINEAR))


# --- x_0 and eps from each other


@both
def test_predict_x_0_inverts_q_sample(name):
    schedule = {"linear": linear_schedule, "cosine": cosine_schedule}[name]()
    x_0, eps = X_0.double(), EPS.double()
    assert_close(predict_x_0(q_sample(x_0, T, eps, schedule), T, eps, schedule), x_0)


@both
def test_predict_eps_inverts_q_sample(name):
    schedule = {"linear": linear_schedule, "cosine": cosine_schedule}[name]()
    x_0, eps = X_0.double(), EPS.double()
    assert_close(predict_eps(q_sample(x_0, T, eps, schedule), T, x_0, schedule), eps)


# --- the posterior


@both
def test_posterior_agrees_with_diffusers(name, monkeypatch):
    # Told that the network predicts x_0, its step is the posterior's mean plus the standard deviation times a draw;
    # the draw is replaced by zeros, then by ones.
    scheduler = their_scheduler(DDPMScheduler, name, 1000, prediction_type="sample", variance_type="fixed_small")
    schedule = Schedule(scheduler.betas)
    x_t = q_sample(X_0, T, EPS, schedule)
    mean, variance = posterior(X_0, x_t, T, schedule)
    steps = {}
    for draw in (torch.zeros, torch.ones):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, draw=draw, **_: draw(shape))
        moves = [scheduler.step(X_0[i : i + 1], int(t), x_t[i : i + 1]).prev_sample for i, t in enumerate(T)]
        steps[draw] = torch.cat(moves)
    assert_close(mean, steps[torch.zeros], rtol=1e-5, atol=1e-5)
    assert_close(mean + variance.sqrt(), steps[torch.ones], rtol=1e-5, atol=1e-5)


def test_the_posterior_is_bayes_rule():
    # q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions add up.
    t = T[T > 0]
    x_0, x_t = noise(len(t), 1, dtype=torch.float64), noise(len(t), 1, seed=3, dtype=torch.float64)
    alpha, beta, before = LINEAR.alphas[t, None], LINEAR.betas[t, None], LINEAR.alpha_bars[t - 1, None]
    precision = alpha / beta + 1 / (1 - before)
    expected = (alpha.sqrt() * x_t / beta + before.sqrt() * x_0 / (1 - before)) / precision
    mean, variance = posterior(x_0, x_t, t, LINEAR)
    assert_close(mean, expected)
    assert_close(variance, 1 / precision)


def test_before_the_first_step_there_is_only_x_0():
    t = torch.zeros(8, dtype=torch.int64)
    mean, variance = posterior(X_0, EPS, t, LINEAR)
    assert_close(mean, X_0)
    assert_close(variance, torch.zeros(8, 1, 1, 1))


def test_one_step_back_and_the_chain_agree():
    # Draw x_t from x_0, x_{t-1} from the posterior: x_{t-1} then has q(x_{t-1} | x_0)'s mean and variance, exactly.
    t = torch.tensor([700])
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    weight_x_0 = float(posterior(one, zero, t, LINEAR)[0])
    weight_x_t = float(posterior(zero, one, t, LINEAR)[0])
    variance = float(posterior(zero, zero, t, LINEAR)[1])
    now, before = float(LINEAR.alpha_bars[700]), float(LINEAR.alpha_bars[699])
    assert_close(weight_x_0 + weight_x_t * now**0.5, before**0.5)
    assert_close(weight_x_t**2 * (1 - now) + variance, 1 - before)


# --- the loss


def test_the_loss_is_the_mean_squared_error_of_the_noise():
    def model(x_t: Tensor, t: Tensor, y: Tensor | None, drop: Tensor | None) -> Tensor:
        assert_close(x_t, q_sample(X_0, T, EPS, LINEAR))
        assert t is T
        return 0.5 * x_t

    expected = ((0.5 * q_sample(X_0, T, EPS, LINEAR) - EPS) ** 2).sum() / EPS.numel()
    assert_close(denoising_loss(model, X_0, T, EPS, LINEAR), expected)


def test_who_knows_the_noise_has_no_loss_and_who_says_nothing_has_one():
    assert float(denoising_loss(lambda *_: EPS, X_0, T, EPS, LINEAR)) == 0
    assert_close(float(denoising_loss(lambda *_: 0 * EPS, X_0, T, EPS, LINEAR)), 1.0, rtol=0.05, atol=0)


def test_labels_and_the_drop_mask_reach_the_network():
    y, drop = torch.arange(8), torch.tensor([True, False] * 4)
    seen = []
    denoising_loss(lambda x, t, *given: seen.append(given) or x, X_0, T, EPS, LINEAR, y, drop)
    assert seen == [(y, drop)]


def test_the_loss_of_a_bf16_network_is_float32():
    loss = denoising_loss(lambda x, *_: x.bfloat16(), X_0, T, EPS, LINEAR)
    assert loss.dtype == torch.float32
    assert_close(loss, F.mse_loss(q_sample(X_0, T, EPS, LINEAR), EPS), rtol=0.01, atol=0)


SHORT = X_0[:, :, :14]
BYTES = (X_0 * 127).to(torch.uint8)
BAD = {
    "eps of another shape": (lambda: q_sample(X_0, T, SHORT, LINEAR), ["eps has shape [8, 1, 14, 28]", "28, 28]"]),
    "x_0 in bytes": (lambda: q_sample(BYTES, T, EPS, LINEAR), ["torch.uint8", "[-1, 1]"]),
    "eps in bytes": (lambda: q_sample(X_0, T, BYTES, LINEAR), ["torch.uint8", "floating point"]),
    "t = T": (lambda: q_sample(X_0, T + 1, EPS, LINEAR), ["timestep 1000", "0 … 999", "report from 1"]),
    "t = -1": (lambda: q_sample(X_0, T - 1, EPS, LINEAR), ["timestep -1", "0 … 999"]),
    "t beyond a shorter schedule": (lambda: predict_x_0(X_0, T, EPS, linear_schedule(10)), ["timestep 999", "0 … 9"]),
    "t too few": (lambda: predict_eps(X_0, T[:3], EPS, LINEAR), ["3 timesteps", "batch of 8"]),
    "t a number": (lambda: q_sample(X_0, 10, EPS, LINEAR), ["int", "int64 tensor [B]"]),
    "t floats": (lambda: posterior(X_0, EPS, T.float(), LINEAR), ["torch.float32 [8]", "int64 tensor [B]"]),
    "x_0 for another batch": (lambda: posterior(X_0[:2], EPS, T, LINEAR), ["shape [2, 1, 28, 28]", "[8, 1, 28, 28]"]),
    "predict_x_0's eps": (lambda: predict_x_0(X_0, T, SHORT, LINEAR), ["eps has shape [8, 1, 14, 28]"]),
    "predict_eps's x_0": (lambda: predict_eps(X_0, T, SHORT, LINEAR), ["x_0 has shape [8, 1, 14, 28]"]),
    "the loss's eps": (lambda: denoising_loss(lambda x, *_: x, X_0, T, SHORT, LINEAR), ["eps has shape"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
