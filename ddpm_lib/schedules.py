"""Noise schedules: how fast the signal fades. All coefficients in float64, made once.

`t` counts from 0 here: t = 0 … T-1 means the report's t+1 = 1 … T, and `alpha_bars[t]` is its abar_{t+1}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ddpm_lib.config import Config
from ddpm_lib.errors import InputError


@dataclass(frozen=True, eq=False)
class Schedule:
    """The forward process q(x_t | x_{t-1}) = N(sqrt(1 - betas[t]) x_{t-1}, betas[t] I).

    Args:
        betas: `[T]`, T >= 2, every value inside (0, 1); kept as float64.

    Raises:
        InputError: betas has another shape or a value outside (0, 1).
    """

    betas: Tensor

    def __post_init__(self) -> None:
        betas = torch.as_tensor(self.betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise InputError(f"betas has shape {list(betas.shape)}; a schedule needs [T] with T >= 2")
        if not bool(((betas > 0) & (betas < 1)).all()):  # also catches NaN
            bad = int((~((betas > 0) & (betas < 1))).nonzero()[0])
            raise InputError(f"betas[{bad}] is {float(betas[bad])}; every beta must lie inside (0, 1)")
        object.__setattr__(self, "betas", betas)

    @property
    def T(self) -> int:
        """The number of noising steps."""
        return len(self.betas)

    @cached_property
    def alphas(self) -> Tensor:
        """`[T]`: 1 - betas, the share of the variance that one step keeps."""
        return 1 - self.betas

    @cached_property
    def alpha_bars(self) -> Tensor:
        """`[T]`: the running product of alphas, the share of the signal's variance left in x_t (DDPM, eq. 4)."""
        return torch.cumprod(self.alphas, dim=0)

    @cached_property
    def alpha_bars_prev(self) -> Tensor:
        """`[T]`: alpha_bars one step earlier; 1 (no noise at all) before the first step."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars[:-1]])

    @cached_property
    def snr(self) -> Tensor:
        """`[T]`: signal-to-noise ratio alpha_bar / (1 - alpha_bar), falling with t."""
        return self.alpha_bars / (1 - self.alpha_bars)

    @cached_property
    def log_snr(self) -> Tensor:
        """`[T]`: lambda, the logarithm of the signal-to-noise ratio (Ho & Salimans, section 2)."""
        return torch.log(self.snr)

    @cached_property
    def noise_levels(self) -> Tensor:
        """`[T]`: sigma, the noise beside a signal of size 1, sqrt((1 - alpha_bar) / alpha_bar); rising with t.

        The axis of papers that add noise without shrinking the signal (Karras et al. 2022).
        """
        return self.snr**-0.5

    @cached_property
    def posterior_variance(self) -> Tensor:
        """`[T]`: the variance of q(x_{t-1} | x_t, x_0) (DDPM, eq. 7); 0 at t = 0."""
        return self.betas * (1 - self.alpha_bars_prev) / (1 - self.alpha_bars)


def linear_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """The report's schedule: beta_i = beta_start + i / (T - 1) (beta_end - beta_start), i = 0 … T-1.

    Raises:
        InputError: T < 2, or a beta outside (0, 1).
    """
    _check_T(T)
    return Schedule(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


def cosine_schedule(T: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """The cosine schedule: alpha_bars follows cos^2 (Nichol & Dhariwal 2021, eq. 17).

    Args:
        T: number of steps, at least 2.
        offset: the paper's s, keeps the first betas from vanishing.
        max_beta: betas are cut here, inside (0, 1): the last one would be 1, and its alpha_bar 0, a singularity.

    Raises:
        InputError: T < 2, or max_beta outside (0, 1).
    """
    _check_T(T)
    times = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
    return Schedule((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def make_schedule(config: Config) -> Schedule:
    """The schedule that a config asks for."""
    if config.schedule == "cosine":
        return cosine_schedule(config.T)
    return linear_schedule(config.T, config.beta_start, config.beta_end)


def extract(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """`values[t]`, one number a sample, shaped `[B, 1, 1, 1]` to multiply images.

    Args:
        values: `[T]`, one of a schedule's coefficients.
        t: `[B]` integer timesteps in 0 … T-1.
        like: the images; the result has their dtype and device.

    Raises:
        InputError: t is not an integer tensor `[B]`, or a timestep is outside 0 … T-1.
    """
    check_timesteps(t, len(values), batch=len(like))
    return values.to(like.dtype).to(like.device)[t].reshape(-1, *[1] * (like.ndim - 1))


def check_timesteps(t: Tensor, T: int, batch: int | None = None) -> None:
    """Raises InputError unless t is an integer tensor `[batch]` of timesteps in 0 … T-1."""
    # Not uint8 either: PyTorch would take it for a mask.
    if not isinstance(t, Tensor) or t.ndim != 1 or t.dtype not in (torch.int32, torch.int64):
        what = f"{t.dtype} {list(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
        raise InputError(f"timesteps are {what}; they must be an int64 tensor [B], e.g. torch.tensor([0, {T - 1}])")
    if batch is not None and len(t) != batch:
        raise InputError(f"{len(t)} timesteps for a batch of {batch}; give one for each sample")
    # On a GPU this look would wait for all queued work at every step; there an index error reports itself.
    if t.device.type == "cpu" and len(t) and not 0 <= int(t.min()) <= int(t.max()) < T:
        bad = int(t.min()) if int(t.min()) < 0 else int(t.max())
        raise InputError(f"timestep {bad} is outside 0 … {T - 1}: code counts from 0 (the report from 1)")


def _check_T(T: int) -> None:
    if isinstance(T, bool) or not isinstance(T, int) or T < 2:
        raise InputError(f"T is {T!r}; a schedule needs a whole number of steps, at least 2")
