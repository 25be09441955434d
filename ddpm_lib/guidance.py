"""Classifier-free guidance (Ho & Salimans 2021): one network, used with and without its label.

And two ways on from there: guidance at some noise levels only (Kynkäänniemi et al. 2024), and guidance away from a
weaker network (Karras et al. 2024b).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_lib.diffusion import Model
from ddpm_lib.errors import InputError
from ddpm_lib.schedules import Schedule

GuidanceWeight = float | Tensor | Callable[[int], float | Tensor]
"""w, as samplers take it: one number, `[B]`, or a function that gives either at a timestep."""


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
        y: `[B]` labels; None samples unconditionally, and then only an `Autoguided` model takes a guidance weight.
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
    if y is None and not isinstance(model, Autoguided):
        if bool((w != 0).any()):
            raise InputError(
                f"guidance_weight is {guidance_weight}, but there are no labels to guide to; pass y, or w = 0"
            )
        return model(x_t, t)
    if w.ndim == 0 and w == 0:
        return model(x_t, t, y)
    if w.ndim == 0 and w == -1:  # every label withheld, but y passed on: an Autoguided model's guide needs it
        return model(x_t, t, y, torch.ones(len(x_t), dtype=torch.bool, device=x_t.device))
    drop = torch.arange(2 * len(x_t), device=x_t.device) >= len(x_t)  # the second half goes without its label
    both = model(torch.cat([x_t, x_t]), torch.cat([t, t]), None if y is None else torch.cat([y, y]), drop)
    conditional, unconditional = both.chunk(2)
    w = w.reshape(-1, 1, 1, 1)
    return (1 + w) * conditional - w * unconditional


def weight_in_interval(
    guidance_weight: float | Tensor, schedule: Schedule, low: float = 0.0, high: float = math.inf
) -> Callable[[int], float | Tensor]:
    """Guidance in an interval of noise levels, and none outside it (Kynkäänniemi et al. 2024).

    The paper finds guidance harmful at high noise, where it takes away variety, and hardly needed at low noise. Where
    w is 0, samplers compute the conditional prediction only: half the work.

    Args:
        guidance_weight: w inside the interval, one number or `[B]`; the paper counts 1 + w.
        schedule: the one that is sampled with.
        low, high: guidance is on where low < sigma <= high. sigma is `Schedule.noise_levels`, the paper's axis:
            sigma = sqrt((1 - alpha_bar) / alpha_bar) = exp(-log_snr / 2).

    Returns:
        A function t -> w, to be given to a sampler as its guidance_weight.

    Raises:
        InputError: the interval is empty, or holds none of the schedule's noise levels.
    """
    levels = schedule.noise_levels
    inside = (low < levels) & (levels <= high)
    if not (0 <= low < high and bool(inside.any())):
        raise InputError(
            f"there are no noise levels in ({low}, {high}]; give 0 <= low < high, and some between"
            f" {float(levels[0]):.3g} and {float(levels[-1]):.3g}, where this schedule's lie"
        )
    return lambda t: guidance_weight if inside[t] else 0.0


class Autoguided(nn.Module):
    """A model and a weaker one to go away from (Karras et al. 2024b, "Guiding … with a Bad Version of Itself").

    `guided_eps`, and with it every sampler, then gives eps~ = (1 + w) eps_model(x_t, t, y) - w eps_guide(x_t, t, y):
    the guide's prediction stands where that without the label stood. w = 0 is the model alone, w = -1 the guide alone.
    Labels are not needed: where y is None, both predict without.

    Args:
        model: the good network.
        guide: trained for the same task, but less well: an earlier epoch, a smaller one. On the same device.
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.guide = guide

    @property
    def num_classes(self) -> int | None:
        """How many labels the model knows; None if it is unconditional."""
        return self.model.num_classes

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """The model's prediction; where `drop` is True, the guide's. Shapes as in `UNet.forward`."""
        if drop is None:
            return self.model(x_t, t, y)
        eps = torch.empty_like(x_t)
        for network, its in ((self.model, ~drop), (self.guide, drop)):
            if bool(its.any()):
                eps[its] = network(x_t[its], t[its], None if y is None else y[its]).to(eps.dtype)
        return eps
