"""Problem set 5's challenge: where to look and to guide, with eight evaluations of the network."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, measured, trained_network
from ddpm_lib.schedules import Schedule, linear_schedule

EVALUATIONS = 8
THRESHOLDS = (2.0, 1.2, 0.88, 0.78)


def eight_evaluations(plan: Iterable[tuple[int, float]], seed: int = 1) -> tuple[int, str]:
    """Measures where a student looks and guides, with DPM-Solver++(2M) and the same weights.

    A step costs one evaluation of the network, or two where w is neither 0 nor -1, for the prediction with and the
    one without the label.

    Args:
        plan: the timestep t, falling, and the guidance weight w of each step.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: it costs more than `EVALUATIONS`, or is not such a plan.
    """
    alpha_bars = linear_schedule().alpha_bars
    steps = _checked(plan, len(alpha_bars))

    from ddpm_lib.samplers import dpm_solver

    # The process that only knows the visited timesteps is one of the same kind; all of its timesteps are visited.
    visits = torch.tensor([t for t, _ in reversed(steps)])
    weights = [w for _, w in reversed(steps)]
    kept = alpha_bars[visits]
    visited = Schedule(1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]]))
    network = trained_network()

    def model(x_t: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return network(x_t, visits[t], y, drop).float()

    def draw(x_T: Tensor) -> Tensor:
        *_, last = dpm_solver(model, x_T, visited, LABELS, weights.__getitem__, steps=None, clip_x_0=True)
        return last.x

    return measured(draw, THRESHOLDS, seed)


def _checked(plan: Iterable[tuple[int, float]], T: int) -> list[tuple[int, float]]:
    try:
        steps = [(operator.index(t), float(w)) for t, w in plan]
    except (TypeError, ValueError):
        raise WrongAnswer("a plan is a list of pairs (t, w): a whole timestep, and the guidance weight there") from None
    if len(steps) < 2:
        raise WrongAnswer(f"the plan has {len(steps)} steps; two are the least")
    for t, w in steps:
        if not 0 <= t < T:
            raise WrongAnswer(f"timestep {t} is outside 0 … {T - 1}: t counts from 0")
        if not math.isfinite(w):
            raise WrongAnswer(f"the guidance weight at t = {t} is {w}")
    for (t, _), (after, _) in pairwise(steps):
        if after >= t:
            raise WrongAnswer(f"after t = {t} comes t = {after}; from noise to picture the timesteps fall")
    cost = sum(1 if w in (0, -1) else 2 for _, w in steps)
    if cost > EVALUATIONS:
        raise WrongAnswer(f"the plan costs {cost} evaluations of the network, at most {EVALUATIONS}: a guided step two")
    return steps
