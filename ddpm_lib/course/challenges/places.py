"""Problem set 2's challenge: where on a schedule to look, with five evaluations of the network."""

from __future__ import annotations

import operator
from collections.abc import Callable

from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, measured, trained_network
from ddpm_lib.course.challenges.visits import Visited, check_falling
from ddpm_lib.schedules import cosine_schedule, linear_schedule

PLACES = 5
THRESHOLDS = (3.3, 1.7, 1.25, 0.78)


def five_places(places: Callable[[Tensor, int], list[int]], seed: int = 1) -> tuple[int, str]:
    """Measures the timesteps that a student's function chooses: DPM-Solver++(2M), x_0 cut to [-1, 1], no guidance.

    Args:
        places: places(alpha_bars, n) gives n timesteps, falling; alpha_bars is `[T]` float64. It is tried on other
            schedules, too.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: it does not give n falling timesteps, for this schedule or another.
    """
    alpha_bars = linear_schedule().alpha_bars
    visits = _chosen(places, alpha_bars, PLACES, "the report's schedule")
    _chosen(places, cosine_schedule().alpha_bars, 10, "the cosine schedule")
    _chosen(places, linear_schedule(100, 1e-3, 0.2).alpha_bars, 20, "a linear schedule of 100 steps")
    model = Visited(trained_network(), visits, alpha_bars)

    from ddpm_lib.samplers import dpm_solver

    def draw(x_T: Tensor) -> Tensor:
        *_, last = dpm_solver(model, x_T, model.schedule, LABELS, steps=None, clip_x_0=True)
        return last.x

    return measured(draw, THRESHOLDS, seed)


def _chosen(places: Callable[[Tensor, int], list[int]], alpha_bars: Tensor, n: int, where: str) -> list[int]:
    chosen = places(alpha_bars.clone(), n)
    try:
        timesteps = [operator.index(t) for t in chosen]
        if len(timesteps) != n:
            raise WrongAnswer(f"{len(timesteps)} timesteps came back, {n} were asked for")
        check_falling(timesteps, len(alpha_bars))
    except TypeError:
        raise WrongAnswer("places must return a list of whole numbers, the timesteps") from None
    except WrongAnswer as problem:
        raise WrongAnswer(f"on {where}, n = {n}: {problem}") from None
    return timesteps
