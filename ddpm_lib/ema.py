"""The exponential moving average of the weights: a steadier model, for the price of one more copy."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from ddpm_lib.errors import InputError


class EMA:
    """w_ema = beta w_ema + (1 - beta) w after each training step (the report, section 3.2).

    The average lives in a network of its own, `ema.model`, ready to sample from; the network in training
    is only read. Parameters are averaged; buffers, which count or look up, are copied.

    Args:
        model: the network in training.
        beta: 0 … 1; the average looks back over about 1 / (1 - beta) steps.
        start: until this many steps are done, the average is a plain copy. Averaging from step 0 would mix in
            the random first weights, which fade only as beta^n.

    Raises:
        InputError: beta is outside [0, 1] or start is negative.
    """

    def __init__(self, model: nn.Module, beta: float = 0.995, start: int = 0) -> None:
        if not 0 <= beta <= 1:
            raise InputError(f"the EMA's beta is {beta}; it must lie in [0, 1], usually 0.99 to 0.9999")
        if start < 0:
            raise InputError(f"the EMA starts at step {start}; it must be 0 or later")
        self.beta = beta
        self.start = start
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def beta_at(self, step: int) -> float:
        """The share of the old average that the update after `step` training steps (from 1) keeps."""
        return 0.0 if step <= self.start else self.beta

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes the weights in after a training step.

        Args:
            model: the network in training.
            step: how many training steps are done, from 1.

        Raises:
            InputError: step is below 1.
        """
        if step < 1:
            raise InputError(f"step is {step}; the average is updated after a step, and they count from 1")
        averages = list(self.model.parameters())
        # One call for all tensors: 160 small ones cost more in calls than in arithmetic.
        torch._foreach_lerp_(averages, list(model.parameters()), 1 - self.beta_at(step))
        for ours, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)


class PowerEMA(EMA):
    """An average whose window grows with training: always the same fraction of it (Karras et al. 2024, eq. 2).

    beta_t = (1 - 1/t)^(gamma + 1): the first weights are forgotten by themselves, so there is no start to choose.

    Args:
        model: the network in training.
        sigma_rel: the window's relative width, in (0, 0.28]: 0.05 averages over about the last fifth.

    Raises:
        InputError: sigma_rel is outside its range.
    """

    def __init__(self, model: nn.Module, sigma_rel: float) -> None:
        super().__init__(model)
        self.gamma = gamma_from_sigma_rel(sigma_rel)

    def beta_at(self, step: int) -> float:
        return (1 - 1 / step) ** (self.gamma + 1)


def gamma_from_sigma_rel(sigma_rel: float) -> float:
    """The exponent of a power-function average of relative width sigma_rel (Karras et al. 2024, eq. 3, solved).

    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) is a cubic in gamma; its largest root is the exponent.

    Raises:
        InputError: sigma_rel is outside (0, 0.28]; gamma = 0, the plain mean of all weights, has 0.289.
    """
    if not 0 < sigma_rel <= 0.28:
        raise InputError(f"sigma_rel is {sigma_rel}; it must lie in (0, 0.28], e.g. 0.05 or 0.10")
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())
