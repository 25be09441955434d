"""Timesteps that a student chose: checked, and made to a process that knows no others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.schedules import Schedule


def check_falling(timesteps: Sequence[int], T: int) -> None:
    """Raises WrongAnswer unless the timesteps fall, inside 0 … T-1."""
    for t in timesteps:
        if not 0 <= t < T:
            raise WrongAnswer(f"timestep {t} is outside 0 … {T - 1}: t counts from 0")
    for t, after in pairwise(timesteps):
        if after >= t:
            raise WrongAnswer(f"after t = {t} comes t = {after}; from noise to picture the timesteps fall")


class Visited(nn.Module):
    """A network as a process sees it that only has some of the timesteps; its t counts these alone, the cleanest 0.

    Such a process is one of the same kind, so the course's samplers take it, with `steps=None`: all are visited.

    Args:
        network: predicts eps at the timesteps of the whole schedule.
        timesteps: which to visit, falling.
        alpha_bars: `[T]`, the whole schedule's.
    """

    def __init__(self, network: nn.Module, timesteps: Sequence[int], alpha_bars: Tensor) -> None:
        super().__init__()
        self.network, self.timesteps = network, torch.tensor(timesteps).flip(0)
        kept = alpha_bars[self.timesteps]
        self.schedule = Schedule(1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]]))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """eps as the network predicts it, `[B, 1, 28, 28]`, in fp32."""
        return self.network(x_t, self.timesteps[t], y, drop).float()
