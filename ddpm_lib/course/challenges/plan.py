"""Problem set 5's challenge: where to look and to guide, with eight evaluations of the network."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, measured, trained_network
from ddpm_lib.course.challenges.visits import Visited, check_falling
from ddpm_lib.schedules import linear_schedule

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

    model = Visited(trained_network(), [t for t, _ in steps], alpha_bars)
    weights = [w for _, w in reversed(steps)]

    def draw(x_T: Tensor) -> Tensor:
        *_, last = dpm_solver(model, x_T, model.schedule, LABELS, weights.__getitem__, steps=None, clip_x_0=True)
        return last.x

    return measured(draw, THRESHOLDS, seed)


def _checked(plan: Iterable[tuple[int, float]], T: int) -> list[tuple[int, float]]:
    try:
        steps = [(operator.index(t), float(w)) for t, w in plan]
    except (TypeError, ValueError):
        raise WrongAnswer("a plan is a list of pairs (t, w): a whole timestep, and the guidance weight there") from None
    if len(steps) < 2:
        raise WrongAnswer(f"the plan has {len(steps)} steps; two are the least")
    check_falling([t for t, _ in steps], T)
    for t, w in steps:
        if not math.isfinite(w):
            raise WrongAnswer(f"the guidance weight at t = {t} is {w}")
    cost = sum(1 if w in (0, -1) else 2 for _, w in steps)
    if cost > EVALUATIONS:
        raise WrongAnswer(f"the plan costs {cost} evaluations of the network, at most {EVALUATIONS}: a guided step two")
    return steps
