"""Problem set 1's challenge: sampling that starts late, at the noised pictures of a normal distribution."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, PRETRAINED, measured, trained_network
from ddpm_lib.course.challenges.visits import Visited
from ddpm_lib.schedules import linear_schedule

THRESHOLDS = (30.0, 12.5, 3.8, 2.0)
DIRECTIONS = 16
EARLIEST = 3  # from there the second look, at a quarter of the way, is at t = 0
CLASS_STATISTICS = PRETRAINED / "class_statistics.safetensors"

LateStart = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[int, Tensor]]
"""start(mean, directions, deviations, eps, alpha_bars) gives t and x_t; `late_start` has the shapes."""


def late_start(start: LateStart, seed: int = 1) -> tuple[int, str]:
    """Measures where a student lets sampling begin: the trained network looks twice from there, without guidance.

    It looks at t and, as quadratic spacing has it, at a quarter of the way; DDIM makes the two steps.

    Args:
        start: gets, a row for each picture, its class's mean `[B, 784]`, orthonormal directions `[B, DIRECTIONS, 784]`,
            the standard deviations along them `[B, DIRECTIONS]`, and noise `[B, 784]`, all float32; and alpha_bars,
            `[T]` float64. Returns t and x_t, `[B, 784]`.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: t is outside `EARLIEST` … T - 1, or x_t is no finite tensor shaped like the noise.
    """
    alpha_bars = linear_schedule().alpha_bars

    def begin(mean: Tensor, directions: Tensor, deviations: Tensor, eps: Tensor) -> tuple[int, Tensor]:
        return _checked(start(mean, directions, deviations, eps, alpha_bars), eps.shape, len(alpha_bars))

    # Before anything heavy is loaded: a function that fails here, or was never written, costs no time.
    rows = torch.eye(784)[: DIRECTIONS + 2]
    begin(-torch.ones(2, 784), rows[2:].repeat(2, 1, 1), torch.ones(2, DIRECTIONS), rows[:2])

    from ddpm_lib.checkpoints import load_tensors
    from ddpm_lib.samplers import ddim

    shipped = load_tensors(CLASS_STATISTICS)[0]
    mean, directions, deviations = (shipped[name].float()[LABELS] for name in ("means", "directions", "deviations"))
    network = trained_network()

    def draw(eps: Tensor) -> Tensor:
        t, x_t = begin(mean, directions, deviations, eps.flatten(1))
        model = Visited(network, [t, (t + 1) // 4 - 1], alpha_bars)
        *_, last = ddim(model, x_t.reshape(eps.shape), model.schedule, LABELS, steps=None, clip_x_0=True)
        return last.x

    return measured(draw, THRESHOLDS, seed)


def class_statistics(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The normal distribution of each class's pixels, by its mean and the directions in which pictures vary most.

    Args:
        images: `[N, 1, 28, 28]` in [-1, 1].
        labels: `[N]` int64 in 0 … 9.

    Returns:
        In half precision: means `[10, 784]`; directions `[10, DIRECTIONS, 784]`, orthonormal, the one of the largest
        variance first; deviations `[10, DIRECTIONS]`, the standard deviations along them.
    """
    means, directions, deviations = [], [], []
    for label in range(10):
        pixels = images[labels == label].flatten(1).double()
        variances, vectors = torch.linalg.eigh(pixels.T.cov())  # rising
        means.append(pixels.mean(dim=0))
        directions.append(vectors.T.flip(0)[:DIRECTIONS])
        deviations.append(variances.flip(0)[:DIRECTIONS].sqrt())
    named = {"means": means, "directions": directions, "deviations": deviations}
    return {name: torch.stack(values).half() for name, values in named.items()}


def _checked(answer: tuple[int, Tensor], shape: torch.Size, T: int) -> tuple[int, Tensor]:
    try:
        t, x_t = answer
        t = operator.index(t)
    except (TypeError, ValueError):
        raise WrongAnswer("expected a pair (t, x_t): a whole timestep, and the pictures noised to it") from None
    if not EARLIEST <= t < T:
        raise WrongAnswer(f"sampling starts at t = {t}, outside {EARLIEST} … {T - 1}")
    if not isinstance(x_t, Tensor) or x_t.shape != shape:
        raise WrongAnswer(f"x_t must be a tensor of the shape of eps, {list(shape)} here")
    if not bool(x_t.isfinite().all()):
        raise WrongAnswer("x_t has values that are infinite or not a number")
    return t, x_t.float()
