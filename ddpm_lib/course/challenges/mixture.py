"""Problem set 6's challenge: the best sum of the weights that a training of twelve epochs left."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, PRETRAINED, measured, trained_network
from ddpm_lib.course.challenges.visits import Visited
from ddpm_lib.schedules import linear_schedule

STEPS, STEPS_PER_EPOCH = 5, 468  # of sampling, and of the training
THRESHOLDS = (11.0, 7.4, 4.6, 3.4)
LEFT = (("raw", 5), ("raw", 10), ("ema", 5), ("ema", 10), ("power", 7), ("power", 12))
"""What the training left, and at the end of which epoch: its own weights, their EMA, their power-function EMA."""


def twelve_epochs(coefficients: Mapping[tuple[str, int], float], seed: int = 1) -> tuple[int, str]:
    """Measures a sum of weights that a student chose, in five steps of DPM-Solver++(2M), without guidance.

    Args:
        coefficients: how much of each set of `LEFT` to take; they sum to 1, and may be negative.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: there is no such set, or the coefficients do not sum to 1.
    """
    shares = _checked(coefficients)

    from ddpm_lib.sampler_steps import spaced_timesteps
    from ddpm_lib.samplers import dpm_solver

    network = copy.deepcopy(trained_network())
    parts = [(share, left_weights(*key)) for key, share in shares.items()]
    network.load_state_dict(
        {name: sum(share * part[name].double() for share, part in parts) for name in network.state_dict()}
    )
    alpha_bars = linear_schedule().alpha_bars
    model = Visited(network, spaced_timesteps(len(alpha_bars), STEPS, "quadratic"), alpha_bars)

    def draw(x_T: Tensor) -> Tensor:
        *_, last = dpm_solver(model, x_T, model.schedule, LABELS, steps=None, clip_x_0=True)
        return last.x

    return measured(draw, THRESHOLDS, seed)


def left_weights(weights: str, epoch: int) -> dict[str, Tensor]:
    """One set of `LEFT`, by name, in half precision."""
    from ddpm_lib.checkpoints import group, load_tensors

    if weights == "power":
        snapshots, _ = load_tensors(PRETRAINED / "cfg_snapshots.safetensors")
        return group(f"power_0.10_step_{epoch * STEPS_PER_EPOCH:06d}", snapshots)
    return load_tensors(PRETRAINED / f"cfg_{weights}_epoch_{epoch:02d}.safetensors")[0]


def _checked(coefficients: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    try:
        shares = {key: float(share) for key, share in coefficients.items()}
    except (AttributeError, TypeError, ValueError):
        raise WrongAnswer("the coefficients are a dict of numbers, for instance {('raw', 10): 1.0}") from None
    for key, share in shares.items():
        if key not in LEFT:
            raise WrongAnswer(f"the training left no {key!r}; there are {', '.join(map(repr, LEFT))}")
        if not math.isfinite(share):
            raise WrongAnswer(f"the coefficient of {key!r} is {share}")
    total = math.fsum(shares.values())
    if not abs(total - 1) < 1e-6:
        raise WrongAnswer(f"the coefficients sum to {total:g}; an average's sum to 1, or every weight is scaled")
    return shares
