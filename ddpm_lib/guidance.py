"""Classifier-free guidance (Ho & Salimans 2021): one network, used with and without its label."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_lib.diffusion import Model
from ddpm_lib.errors import InputError


def drop_labels(batch: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Draws which samples train without their label: each one by itself, never the batch as a whole.

    Args:
        batch: number of samples.
        probability: chance of each to lose its label, in [0, 1].
        generator: source of the draw (CPU).

    Returns:
        `[batch]` bool on the CPU, True where the label is withheld.

    Raises:
        InputError: the probability is outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise InputError(f"the drop probability is {probability}; it must lie in [0, 1], usually 0.1 to 0.2")
    return torch.rand(batch, generator=generator) < probability


def guided_eps(
    model: Model, x_t: Tensor, t: Tensor, y: Tensor | None = None, guidance_weight: float | Tensor = 0.0
) -> Tensor:
    """eps~ = (1 + w) eps(x_t, t, y) - w eps(x_t, t) (Ho & Salimans, eq. 6).

    w = 0 is the plain conditional model, w = -1 the unconditional one; w > 0 goes past the conditional
    prediction, away from the unconditional. Both come from one forward pass on a doubled batch; where w needs
    only one of them, only that one is computed.

    Args:
        model: predicts eps.
        x_t: `[B, 1, 28, 28]`.
        t: `[B]` timesteps.
        y: `[B]` labels; None samples unconditionally, and then no guidance weight is possible.
        guidance_weight: w, one finite number, or `[B]`, one for each sample.

    Returns:
        eps~, shaped like x_t.

    Raises:
        InputError: w is not finite, has another shape, or is given without labels.
    """
    w = torch.as_tensor(guidance_weight, dtype=x_t.dtype, device=x_t.device)
    if w.ndim > 1 or (w.ndim == 1 and len(w) != len(x_t)):
        raise InputError(f"guidance_weight has shape {list(w.shape)}; give one number, or one a sample, [{len(x_t)}]")
    if not bool(torch.isfinite(w).all()):
        raise InputError(f"guidance_weight is {guidance_weight}; it must be a finite number, usually -1 … 8")
    if y is None:
        if bool((w != 0).any()):
            raise InputError(
                f"guidance_weight is {guidance_weight}, but there are no labels to guide to; pass y, or w = 0"
            )
        return model(x_t, t)
    if w.ndim == 0 and w == 0:
        return model(x_t, t, y)
    if w.ndim == 0 and w == -1:
        return model(x_t, t)
    drop = torch.arange(2 * len(x_t), device=x_t.device) >= len(x_t)  # the second half goes without its label
    both = model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, y]), drop)
    conditional, unconditional = both.chunk(2)
    w = w.reshape(-1, 1, 1, 1)
    return (1 + w) * conditional - w * unconditional
