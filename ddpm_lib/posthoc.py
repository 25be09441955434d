"""Post-hoc EMA: averages of any length, made after the training (Karras et al. 2024, section 3 and appendix C).

An average of the weights is a sum, with one share for each training step: its profile. Training keeps snapshots of two
power-function averages; the sum of snapshots whose profile comes nearest to a wanted one comes near that average:

    snapshots = power_snapshots(folder)
    model.load_state_dict(posthoc_weights(snapshots, power_profile(0.07, step=9360)))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_lib.ema import gamma_from_sigma_rel
from ddpm_lib.errors import InputError
from ddpm_lib.run_files import kept_steps, load_model
from ddpm_lib.training import POWER_EMA_WIDTHS

Snapshot = tuple[float, int]
"""Which average, and when: (sigma_rel, how many training steps were done)."""


def power_profile(sigma_rel: float, step: int) -> np.ndarray:
    """The shares that the weights after training steps 1 … step have in a `PowerEMA`; `[step]`, summing to 1.

    Raises:
        InputError: sigma_rel is outside (0, 0.28], or step below 1.
    """
    _check_step(step)
    return np.diff((np.arange(step + 1) / step) ** (gamma_from_sigma_rel(sigma_rel) + 1))


def ema_profile(beta: float, start: int, step: int) -> np.ndarray:
    """The shares that the weights after training steps 1 … step have in an `EMA(beta, start)`; `[step]`, summing to 1.

    Raises:
        InputError: beta is outside [0, 1], step below 1, or start below 1: from 0 on, the average would contain the
            weights before the training, which no snapshot does.
    """
    _check_step(step)
    if not 0 <= beta <= 1 or start < 1:
        raise InputError(f"beta is {beta} and start {start}; beta must lie in [0, 1], and start be 1 or later")
    copied = min(start, step)
    shares = (1 - beta) * beta ** np.arange(step - 1.0, -1.0, -1.0)
    shares[:copied] = 0
    shares[copied - 1] = beta ** (step - copied)
    return shares


def posthoc_coefficients(snapshots: Sequence[Snapshot], target: np.ndarray) -> np.ndarray:
    """How much of each snapshot to take: least squares between the summed profiles and the target's.

    Solved on the profiles themselves, step by step, so that the target may be any average. The coefficients are made
    to sum to 1, which the paper does not ask for: with few snapshots the sum would be off by some percent, and every
    weight of the network with it.

    Args:
        snapshots: the averages at hand.
        target: a profile, `[step]`, from `power_profile` or `ema_profile`. It is met best at a step of which there are
            snapshots, with a width between theirs.

    Returns:
        `[len(snapshots)]` float64. Some are negative: an average is narrowed by taking the wider one away.

    Raises:
        InputError: there are no snapshots, or none reaches up to the target's last step.
    """
    last = max((step for _, step in snapshots), default=0)
    if len(target) > last:
        raise InputError(
            f"the wanted average reaches to step {len(target)}, the snapshots to {last}; ask for an earlier one"
        )
    profiles = np.stack([_until(last, power_profile(*snapshot)) for snapshot in snapshots], axis=1)
    reference = profiles[:, -1]  # takes what the others leave of 1
    others = np.linalg.lstsq(profiles[:, :-1] - reference[:, None], _until(last, target) - reference, rcond=None)[0]
    return np.append(others, 1 - others.sum())


def posthoc_weights(snapshots: Mapping[Snapshot, Mapping[str, Tensor]], target: np.ndarray) -> dict[str, Tensor]:
    """The weights of an average that nobody tracked.

    Args:
        snapshots: the weights of each average at hand, as in `model.state_dict()`; half precision will do.
        target: a profile; see `posthoc_coefficients`.

    Returns:
        The weights by name, summed in float64, then fp32 (or wider, if the snapshots are).

    Raises:
        InputError: as in `posthoc_coefficients`, or the snapshots are of different networks.
    """
    coefficients = posthoc_coefficients(list(snapshots), target)
    first = next(iter(snapshots.values()))
    if any(weights.keys() != first.keys() for weights in snapshots.values()):
        raise InputError("the snapshots have weights of different names; they must come from one training")
    terms = list(zip(coefficients.tolist(), snapshots.values(), strict=True))
    return {
        name: sum(share * weights[name].double() for share, weights in terms).to(
            torch.promote_types(value.dtype, torch.float32)
        )
        for name, value in first.items()
    }


def power_snapshots(folder: str | Path) -> dict[Snapshot, dict[str, Tensor]]:
    """The power-function averages that a run kept, at all its `kept_steps`.

    Raises:
        CheckpointError: the run kept no weights, or a file is damaged.
        InputError: its config has no power_emas.
    """
    return {
        (width, step): load_model(folder, step, f"power_{width:.2f}").state_dict()
        for step in kept_steps(folder)
        for width in POWER_EMA_WIDTHS
    }


def _until(last: int, profile: np.ndarray) -> np.ndarray:
    """The profile, with a share of 0 for the steps after its own last one."""
    return np.pad(profile, (0, last - len(profile)))


def _check_step(step: int) -> None:
    if step < 1:
        raise InputError(f"step is {step}; an average's profile begins with training step 1")
