"""The sinusoidal time embedding: how the network is told how much noise to expect."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_lib.errors import InputError


def timestep_embedding(t: Tensor, dim: int = 128) -> Tensor:
    """Encodes timesteps as `[sin(t inv_freq); cos(t inv_freq)]`: all sines first, then all cosines.

    With i = 0 … dim/2 - 1, inv_freq_i = 1 / 10000^(2i / dim): from one radian a step to one radian in
    about 10,000 steps (Vaswani et al. 2017, section 3.5, there interleaved; DDPM's code concatenates).

    Args:
        t: `[B]` timesteps (integers, or real numbers between them).
        dim: the length of an embedding; even, at least 2.

    Returns:
        `[B, dim]` float32, in [-1, 1].

    Raises:
        InputError: dim is odd or below 2, or t is not `[B]`.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 2 or dim % 2:
        raise InputError(
            f"the embedding width is {dim!r}; it must be an even number, at least 2 (half sines, half cosines)"
        )
    if t.ndim != 1:
        raise InputError(f"timesteps have shape {list(t.shape)}; they must be [B]")
    i = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    inv_freq = 10000.0 ** (-2 * i / dim)
    angles = t.float()[:, None] * inv_freq[None, :]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
