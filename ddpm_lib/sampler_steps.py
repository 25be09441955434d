"""What all samplers share: which timesteps they visit, what the network says there, and what they report of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ddpm_lib.errors import InputError, nearest
from ddpm_lib.guidance import GuidanceWeight, guided_eps
from ddpm_lib.schedules import Schedule

SPACINGS = ("linear", "quadratic")


@dataclass(frozen=True, eq=False)
class SampleStep:
    """What one step of a sampler saw and did. All tensors are `[B, 1, 28, 28]`."""

    index: int  # how many steps are done, 1 … steps
    steps: int  # how many there are
    t: int  # the 0-based timestep at which the network looked
    eps: Tensor  # the (guided) noise it predicted there
    x_0: Tensor  # the clean image that this eps implies; cut to [-1, 1] only where clip_x_0 is set
    x: Tensor  # the picture after the step; after the last one, the result


class Sampler(Protocol):
    """The signature that all samplers share."""

    def __call__(
        self,
        model: nn.Module,
        x_T: Tensor,
        schedule: Schedule,
        y: Tensor | None = None,
        guidance_weight: GuidanceWeight = 0.0,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[SampleStep]: ...


def spaced_timesteps(T: int, steps: int, spacing: str = "linear") -> list[int]:
    """Chooses which timesteps to visit, from T-1 downwards; after the last one comes the clean image.

    Args:
        T: the schedule's number of timesteps.
        steps: how many to visit, 1 … T.
        spacing: "linear": equal gaps. "quadratic": gaps that shrink towards t = 0, where detail is decided
            (DDIM, appendix D.2).

    Returns:
        `steps` different timesteps, falling, beginning with T-1.

    Raises:
        InputError: steps is outside 1 … T or the spacing is unknown.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= T:
        raise InputError(f"steps is {steps!r}; it must be a whole number in 1 … {T} (the schedule has {T} timesteps)")
    if spacing not in SPACINGS:
        raise InputError(f"spacing is {spacing!r}; {nearest(str(spacing), SPACINGS)}")
    power = 1 if spacing == "linear" else 2
    visits = [round(T * ((steps - i) / steps) ** power) - 1 for i in range(steps)]
    # Rounding can make the smallest ones meet: keep each at least as high as the number still to come.
    return [max(t, steps - 1 - i) for i, t in enumerate(visits)]


def predict(
    model: nn.Module,
    x: Tensor,
    t: int,
    schedule: Schedule,
    y: Tensor | None,
    guidance_weight: GuidanceWeight,
    clip_x_0: bool = False,
) -> tuple[Tensor, Tensor]:
    """The guided eps at t and the x_0 that it implies, both shaped like x; with `clip_x_0` for x_0 cut to [-1, 1].

    The arguments are those of the samplers.
    """
    times = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
    w = guidance_weight(t) if callable(guidance_weight) else guidance_weight
    eps = guided_eps(model, x, times, y, w)
    alpha_bar = float(schedule.alpha_bars[t])
    x_0 = (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
    if clip_x_0:
        x_0 = x_0.clamp(-1, 1)
        eps = (x - math.sqrt(alpha_bar) * x_0) / math.sqrt(1 - alpha_bar)
    return eps, x_0


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise shaped like x; drawn on the CPU, so that a seed gives the same on any device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
