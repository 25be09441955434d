"""The forward process in closed form, its posterior, and the training loss. DDPM is Ho et al. 2020."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_lib.errors import InputError
from ddpm_lib.schedules import Schedule, extract

Model = Callable[..., Tensor]
"""eps_theta: called as model(x_t, t, y, drop), gives the predicted noise."""


def q_sample(x_0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Noises x_0 to time t in one jump: sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (DDPM, eq. 4).

    Args:
        x_0: `[B, 1, 28, 28]` images in [-1, 1].
        t: `[B]` timesteps in 0 … T-1.
        eps: standard normal noise, shaped like x_0.
        schedule: the noise schedule.

    Returns:
        x_t, shaped like x_0.

    Raises:
        InputError: shapes differ, x_0 is not floating point, or a timestep is out of range.
    """
    _check_alike("eps", eps, x_0)
    alpha_bars = schedule.alpha_bars
    return extract(alpha_bars.sqrt(), t, x_0) * x_0 + extract((1 - alpha_bars).sqrt(), t, x_0) * eps


def predict_x_0(x_t: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Solves `q_sample` for x_0: the clean image that this eps implies (DDPM, eq. 15). Not clipped."""
    _check_alike("eps", eps, x_t)
    alpha_bars = schedule.alpha_bars
    return (x_t - extract((1 - alpha_bars).sqrt(), t, x_t) * eps) / extract(alpha_bars.sqrt(), t, x_t)


def predict_eps(x_t: Tensor, t: Tensor, x_0: Tensor, schedule: Schedule) -> Tensor:
    """Solves `q_sample` for eps: the noise that leads from this x_0 to x_t."""
    _check_alike("x_0", x_0, x_t)
    alpha_bars = schedule.alpha_bars
    return (x_t - extract(alpha_bars.sqrt(), t, x_t) * x_0) / extract((1 - alpha_bars).sqrt(), t, x_t)


def posterior(x_0: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """q(x_{t-1} | x_t, x_0), a Gaussian because x_0 is known (DDPM, eqs. 6 and 7).

    Args:
        x_0: `[B, 1, 28, 28]` clean images.
        x_t: the same, noised to t.
        t: `[B]` timesteps in 0 … T-1; at t = 0 the posterior is x_0 itself, with variance 0.
        schedule: the noise schedule.

    Returns:
        mean `[B, 1, 28, 28]` and variance `[B, 1, 1, 1]`.

    Raises:
        InputError: shapes differ or a timestep is out of range.
    """
    _check_alike("x_0", x_0, x_t)
    betas, alphas, alpha_bars, prev = (
        schedule.betas,
        schedule.alphas,
        schedule.alpha_bars,
        schedule.alpha_bars_prev,
    )
    weight_x_0 = prev.sqrt() * betas / (1 - alpha_bars)
    weight_x_t = alphas.sqrt() * (1 - prev) / (1 - alpha_bars)
    mean = extract(weight_x_0, t, x_t) * x_0 + extract(weight_x_t, t, x_t) * x_t
    return mean, extract(schedule.posterior_variance, t, x_t)


def denoising_loss(
    model: Model,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
    y: Tensor | None = None,
    drop: Tensor | None = None,
) -> Tensor:
    """Algorithm 1's objective: the mean squared error of the predicted noise (DDPM, eq. 14), one number.

    Args:
        model: predicts eps.
        x_0, t, eps, schedule: as in `q_sample`.
        y: `[B]` labels, or None.
        drop: `[B]` bool, True where the label is withheld.
    """
    x_t = q_sample(x_0, t, eps, schedule)
    return F.mse_loss(model(x_t, t, y, drop).float(), eps)


def _check_alike(name: str, value: Tensor, image: Tensor) -> None:
    if value.shape != image.shape:
        raise InputError(f"{name} has shape {list(value.shape)}, the images {list(image.shape)}; they must be equal")
    for tensor in (value, image):
        if not torch.is_floating_point(tensor):
            raise InputError(f"images and noise are floating point, not {tensor.dtype}; scale bytes to [-1, 1] first")
