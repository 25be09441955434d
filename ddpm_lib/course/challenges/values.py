"""Problem set 3's challenge: the trained network in three bits a weight."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, measured, trained_network
from ddpm_lib.course.challenges.visits import Visited
from ddpm_lib.schedules import linear_schedule

VALUES = 8
SHORTEST = 32  # numbers in a row; the few shorter ones, at full resolution, stay: eight values would not be fewer bits
STEPS = 5
THRESHOLDS = (29.3, 22.0, 15.0, 6.5)

FewValues = Callable[[Tensor], Tensor]
"""few_values(weight), `[rows, n]`, gives a tensor like it, each row of which has at most `VALUES` different numbers."""


def eight_values(few_values: FewValues, seed: int = 1) -> tuple[int, str]:
    """Measures how well the trained network draws when a student has rounded its weights, in five steps, unguided.

    Every kernel, matrix and embedding is handed over, once, a row for each channel that comes out (for each label);
    biases, norms, and weights with rows shorter than `SHORTEST` stay as they are. DPM-Solver++(2M) makes the pictures.

    Args:
        few_values: gets a float32 weight `[rows, n]`, and returns what stands in its place.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: a result is no finite tensor shaped like the weight, or a row has too many values.
    """
    # Before anything heavy is loaded: a function that fails here, or was never written, costs no time.
    _checked(few_values, torch.randn(4, 50, generator=torch.Generator().manual_seed(0)))

    from ddpm_lib.sampler_steps import spaced_timesteps
    from ddpm_lib.samplers import dpm_solver

    alpha_bars = linear_schedule().alpha_bars
    network = rounded(trained_network(), few_values)
    model = Visited(network, spaced_timesteps(len(alpha_bars), STEPS, "quadratic"), alpha_bars)

    def draw(x_T: Tensor) -> Tensor:
        *_, last = dpm_solver(model, x_T, model.schedule, LABELS, steps=None, clip_x_0=True)
        return last.x

    return measured(draw, THRESHOLDS, seed)


def rounded(network: nn.Module, few_values: FewValues) -> nn.Module:
    """A copy of a network, with `few_values` of each weight whose rows have `SHORTEST` numbers or more.

    Raises:
        WrongAnswer: as in `eight_values`.
    """
    network = copy.deepcopy(network)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and weight[0].numel() >= SHORTEST:
                weight.copy_(_checked(few_values, weight.flatten(1)).reshape(weight.shape))
    return network


def _checked(few_values: FewValues, weight: Tensor) -> Tensor:
    result = few_values(weight.clone())
    if not isinstance(result, Tensor) or result.shape != weight.shape:
        raise WrongAnswer(f"few_values must return a tensor of the shape of weight, {list(weight.shape)} here")
    if not bool(result.isfinite().all()):
        raise WrongAnswer("few_values returns values that are infinite or not a number")
    # In a sorted row, each new value is one rise; what rounding makes of one value is none.
    ordered = result.sort(dim=1).values
    rises = ordered.diff(dim=1) > 1e-5 * (ordered[:, -1:] - ordered[:, :1])
    most = int(rises.sum(dim=1).max()) + 1
    if most > VALUES:
        raise WrongAnswer(f"a row has {most} different values, at most {VALUES} are allowed; each row has its own")
    return result.float()
