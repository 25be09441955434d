"""Samplers: from noise to pictures. Each is a generator function with the same signature, and one loop.

A sampler yields a `SampleStep` after each step; plots, progress bars and sliders live with the caller:

    for step in ddim(model, x_T, schedule, steps=25):
        show(step.x)

`sample` draws x_T, runs one to its end and gives the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lib.errors import InputError, nearest
from ddpm_lib.guidance import GuidanceWeight
from ddpm_lib.sampler_steps import Sampler, SampleStep, noise_like, predict, spaced_timesteps
from ddpm_lib.schedules import Schedule


@torch.no_grad()
def ddpm(
    model: nn.Module,
    x_T: Tensor,
    schedule: Schedule,
    y: Tensor | None = None,
    guidance_weight: GuidanceWeight = 0.0,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[SampleStep]:
    """Algorithm 2 (DDPM's algorithm 2), sigma_t^2 = beta_t: every timestep, new noise at each but the last.

    Args:
        model: predicts eps.
        x_T: `[B, 1, 28, 28]` standard normal noise.
        schedule: the noise schedule the model was trained with.
        y: `[B]` labels, or None.
        guidance_weight: w, one number or `[B]`, or a function of t that gives one; see `guided_eps` and
            `weight_in_interval`.
        steps: None or T: this algorithm visits every timestep.
        generator: source of the noise (CPU, so that a seed gives the same pictures on any device).

    Raises:
        InputError: steps is neither None nor T.
    """
    if steps not in (None, schedule.T):
        raise InputError(
            f"steps is {steps}, but ddpm visits all {schedule.T} timesteps; for fewer use ancestral or ddim"
        )
    x = x_T
    for index, t in enumerate(range(schedule.T - 1, -1, -1), start=1):
        eps, x_0 = predict(model, x, t, schedule, y, guidance_weight)
        alpha, alpha_bar = float(schedule.alphas[t]), float(schedule.alpha_bars[t])
        mean = (x - (1 - alpha) / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha)
        x = mean if t == 0 else mean + math.sqrt(1 - alpha) * noise_like(x, generator)
        yield SampleStep(index, schedule.T, t, eps, x_0, x)


@torch.no_grad()
def ancestral(
    model: nn.Module,
    x_T: Tensor,
    schedule: Schedule,
    y: Tensor | None = None,
    guidance_weight: GuidanceWeight = 0.0,
    steps: int | None = None,
    generator: torch.Generator | None = None,
    v: float = 0.3,
    spacing: str = "linear",
    clip_x_0: bool = False,
) -> Iterator[SampleStep]:
    """Algorithm 3, in log-SNR form, over any number of steps (Ho & Salimans, algorithm 2 and eqs. 3 and 4).

    The noise between two visited timesteps has the variance lower^(1 - v) upper^v, where lower is the posterior
    variance (as if x_0 were one known image) and upper is beta_t (as if x_0 were pure noise).

    Args:
        v: 0 … 1, where the variance lies between its bounds; the paper uses 0.3 or less.
        spacing: see `spaced_timesteps`.
        clip_x_0: cut each predicted x_0 to [-1, 1], where images lie. At high noise a small error of eps is a large one
            of x_0 (158 times larger at t = 999), and without fresh noise nothing corrects it: a help for models that
            are not fully trained.
        The rest as in `ddpm`; steps None visits every timestep.

    Raises:
        InputError: v is outside [0, 1], or as in `spaced_timesteps`.
    """
    if not 0 <= v <= 1:
        raise InputError(f"v is {v}; it must lie in [0, 1]: 0 for the posterior variance, 1 for beta_t")
    x = x_T
    for index, (t, t_next) in enumerate(visits := _visits(schedule, steps, spacing), start=1):
        eps, x_0 = predict(model, x, t, schedule, y, guidance_weight, clip_x_0)
        if t_next is None:
            x = x_0
        else:
            weight_x, weight_x_0, variance = transition(schedule, t, t_next, v)
            x = weight_x * x + weight_x_0 * x_0 + math.sqrt(variance) * noise_like(x, generator)
        yield SampleStep(index, len(visits), t, eps, x_0, x)


def transition(schedule: Schedule, t: int, t_next: int, v: float) -> tuple[float, float, float]:
    """One step of Algorithm 3, from t to the cleaner t_next: the mean's weights of x_t and x_0, and the variance.

    With lambda = log-SNR at t, lambda' at t_next (Ho & Salimans, eq. 3, and the mixing of section 3):
    mean = e^(lambda - lambda') (alpha'/alpha) x_t + (1 - e^(lambda - lambda')) alpha' x_0;
    variance = (1 - e^(lambda - lambda')) (sigma'^2)^(1 - v) (sigma^2)^v.
    For neighbours, v = 0 gives `posterior_variance[t]` and v = 1 gives `betas[t]`.
    """
    alpha_sq, alpha_sq_next = float(schedule.alpha_bars[t]), float(schedule.alpha_bars[t_next])
    log_ratio = float(schedule.log_snr[t] - schedule.log_snr[t_next])  # lambda - lambda' < 0
    new = -math.expm1(log_ratio)  # 1 - e^(lambda - lambda'), exact also when they are close
    weight_x = math.exp(log_ratio) * math.sqrt(alpha_sq_next / alpha_sq)
    variance = new * (1 - alpha_sq_next) ** (1 - v) * (1 - alpha_sq) ** v
    return weight_x, new * math.sqrt(alpha_sq_next), variance


@torch.no_grad()
def ddim(
    model: nn.Module,
    x_T: Tensor,
    schedule: Schedule,
    y: Tensor | None = None,
    guidance_weight: GuidanceWeight = 0.0,
    steps: int | None = 50,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
    spacing: str = "linear",
    clip_x_0: bool = False,
) -> Iterator[SampleStep]:
    """DDIM (Song et al. 2021, eqs. 12 and 16): leaps over timesteps; with eta = 0 no noise is added.

    Args:
        eta: 0 … 1, the share of DDPM's noise: 0 makes x_0 a function of x_T alone.
        spacing: see `spaced_timesteps`.
        clip_x_0: see `ancestral`.
        The rest as in `ddpm`; steps None visits every timestep.

    Raises:
        InputError: eta is outside [0, 1], or as in `spaced_timesteps`.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta is {eta}; it must lie in [0, 1]: 0 adds no noise, 1 as much as DDPM")
    x = x_T
    for index, (t, t_next) in enumerate(visits := _visits(schedule, steps, spacing), start=1):
        eps, x_0 = predict(model, x, t, schedule, y, guidance_weight, clip_x_0)
        alpha_bar = float(schedule.alpha_bars[t])
        alpha_bar_next = 1.0 if t_next is None else float(schedule.alpha_bars[t_next])
        variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
        x = math.sqrt(alpha_bar_next) * x_0 + math.sqrt(1 - alpha_bar_next - variance) * eps
        if variance > 0:
            x = x + math.sqrt(variance) * noise_like(x, generator)
        yield SampleStep(index, len(visits), t, eps, x_0, x)


@torch.no_grad()
def dpm_solver(
    model: nn.Module,
    x_T: Tensor,
    schedule: Schedule,
    y: Tensor | None = None,
    guidance_weight: GuidanceWeight = 0.0,
    steps: int | None = 12,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
    spacing: str = "quadratic",
    clip_x_0: bool = False,
) -> Iterator[SampleStep]:
    """DPM-Solver++(2M): second order in the log-SNR, from two predictions of x_0 (Lu et al. 2022b, algorithm 2).

    DDIM takes x_0 as constant over a step; this one extends the line through the last two x_0. The last step, to the
    clean image, is first order. With eta = 0 no noise is added: x_0 is a function of x_T alone, and early errors of the
    network stay. eta = 1 is SDE-DPM-Solver++(2M) of the same paper, "sde_dpm_solver" in `SAMPLERS`: Algorithm 3 with
    v = 0, and that line in place of its constant x_0. Its fresh noise lets the network correct earlier errors.

    Args:
        eta: 0 … 1, the share of noise on the way (Xue et al. 2023, tau^2).
        spacing: see `spaced_timesteps`.
        clip_x_0: see `ancestral`.
        The rest as in `ddpm`; steps None visits every timestep.

    Raises:
        InputError: eta is outside [0, 1], or as in `spaced_timesteps`.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta is {eta}; it must lie in [0, 1]: 0 adds no noise, 1 as much as DDPM")
    x, x_0_before, h_before = x_T, None, 0.0
    for index, (t, t_next) in enumerate(visits := _visits(schedule, steps, spacing), start=1):
        eps, x_0 = predict(model, x, t, schedule, y, guidance_weight, clip_x_0)
        if t_next is None:
            x = x_0
        else:
            h = float(schedule.log_snr[t_next] - schedule.log_snr[t]) / 2  # lambda there is log(alpha / sigma)
            slope = 0.0 if x_0_before is None else h / (2 * h_before)
            target = x_0 if x_0_before is None else (1 + slope) * x_0 - slope * x_0_before
            alpha_bar, alpha_bar_next = float(schedule.alpha_bars[t]), float(schedule.alpha_bars[t_next])
            weight_x = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * math.exp(-eta * h)
            x = weight_x * x - math.sqrt(alpha_bar_next) * math.expm1(-(1 + eta) * h) * target
            if eta > 0:
                x = x + math.sqrt((1 - alpha_bar_next) * -math.expm1(-2 * eta * h)) * noise_like(x, generator)
            x_0_before, h_before = x_0, h
        yield SampleStep(index, len(visits), t, eps, x_0, x)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm_solver": dpm_solver,
    "sde_dpm_solver": partial(dpm_solver, eta=1.0),
}


def sample(
    model: nn.Module,
    schedule: Schedule,
    n: int | None = None,
    y: Tensor | None = None,
    guidance_weight: GuidanceWeight = 0.0,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[SampleStep], None] | None = None,
    **options: Any,
) -> Tensor:
    """Draws x_T and runs a sampler to its end.

    Args:
        model: predicts eps; the pictures are made on its device.
        schedule: the noise schedule it was trained with.
        n: how many pictures; with y it may be left out.
        y: `[n]` labels, or None.
        guidance_weight: w, one number or `[n]`, or a function of t that gives one.
        sampler: a name in `SAMPLERS` or a function with their signature.
        steps: how many network evaluations; None: all timesteps, but 50 for ddim, 12 for dpm_solver and
            sde_dpm_solver.
        generator: source of all noise (CPU).
        callback: called with each `SampleStep`, for progress and intermediate pictures.
        options: what only some samplers take: v, eta, spacing, clip_x_0.

    Returns:
        `[n, 1, 28, 28]`, in about [-1, 1], not clipped.

    Raises:
        InputError: an unknown sampler, n missing or at odds with y, or as the sampler says.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise InputError(f"there is no sampler {sampler!r}; {nearest(sampler, SAMPLERS)}")
        sampler = SAMPLERS[sampler]
    n = len(y) if n is None and y is not None else n
    if n is None or n < 1 or (y is not None and len(y) != n):
        raise InputError(
            f"n is {n} with {'no' if y is None else len(y)} labels; ask for n >= 1 pictures, one label each"
        )
    device = next(model.parameters()).device
    x = torch.randn(n, 1, 28, 28, generator=generator).to(device)
    y = None if y is None else y.to(device)
    if steps is not None:
        options["steps"] = steps
    for step in sampler(model, x, schedule, y, guidance_weight, generator=generator, **options):
        x = step.x
        if callback is not None:
            callback(step)
    return x


def _visits(schedule: Schedule, steps: int | None, spacing: str) -> list[tuple[int, int | None]]:
    """The pairs (t, next t); the last next is None, the clean image."""
    visits = spaced_timesteps(schedule.T, schedule.T if steps is None else steps, spacing)
    return list(zip(visits, [*visits[1:], None], strict=True))
