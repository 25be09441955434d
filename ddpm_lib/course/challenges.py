"""Challenges: the best pictures that the course's trained network gives within a few evaluations, paid by their FID.

Grading a hundred of them has to be quick: 200 samples, few evaluations, and thresholds far from what the well-known
answers reach (`tests/assignments/test_challenges.py` measures these).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.schedules import Schedule, linear_schedule

if TYPE_CHECKING:
    from ddpm_lib.unet import UNet

SAMPLES, BATCH = 200, 50
LABELS = torch.arange(BATCH) % 10
LOOKS = 5
LOOKS_THRESHOLDS = (8.5, 5.3, 3.2, 1.9)  # of the FID; one point for each that it stays below
EVALUATIONS = 8
PLAN_THRESHOLDS = (2.0, 1.2, 0.88, 0.78)
PRETRAINED = Path(__file__).parents[1] / "pretrained"
WEIGHTS = PRETRAINED / "cfg_ema_epoch_20.safetensors"
REAL_STATISTICS = PRETRAINED / "real_statistics.safetensors"

FastSample = Callable[[Callable[[Tensor, int], Tensor], Tensor, Tensor], Tensor]
"""fast_sample(model, x_T, alpha_bars) gives pictures; it calls model(x, t) at most `LOOKS` times."""


def five_looks(fast_sample: FastSample, seed: int = 1) -> tuple[int, str]:
    """Problem set 4: measures a student's sampler on the averaged weights of the last epoch, without guidance.

    Args:
        fast_sample: the sampler; it gets `[B, 1, 28, 28]` noise and alpha_bars, `[T]` float64.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: it asks too often, or does not lead to the picture that a model sees.
    """
    # Before anything heavy is loaded: a sampler that fails here, or was never written, costs no time.
    alpha_bars = linear_schedule().alpha_bars
    _leads_to_what_the_model_sees(fast_sample, alpha_bars)
    network = _network()

    def draw(x_T: Tensor) -> Tensor:
        model = _counted(lambda x, t: network(x.float(), torch.full((len(x),), int(t)), LABELS).float())
        return fast_sample(model, x_T, alpha_bars)

    return _measured(draw, LOOKS_THRESHOLDS, seed)


def eight_evaluations(plan: Iterable[tuple[int, float]], seed: int = 1) -> tuple[int, str]:
    """Problem set 5: measures where a student looks and guides, with DPM-Solver++(2M) and the same weights.

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
    network = _network()

    def model(x_t: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return network(x_t, visits[t], y, drop).float()

    def draw(x_T: Tensor) -> Tensor:
        *_, last = dpm_solver(model, x_T, visited, LABELS, weights.__getitem__, steps=None, clip_x_0=True)
        return last.x

    return _measured(draw, PLAN_THRESHOLDS, seed)


def fid(images: Tensor) -> float:
    """The Fréchet distance of images from the 60,000 training images, as `evaluation.evaluate_images` has it.

    The training images' mean and covariance come with the package, so no data set is needed; and what is imported here
    takes a tenth of the time that `evaluation` does.
    """
    from ddpm_lib.checkpoints import load_tensors
    from ddpm_lib.classifier import judge

    real = {name: tensor.double() for name, tensor in load_tensors(REAL_STATISTICS)[0].items()}
    features = judge(images)[0].double()
    covariance = features.T.cov()
    values, vectors = torch.linalg.eigh(real["sigma"])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # tr sqrt(A B) is the sum of the roots of the eigenvalues of sqrt(A) B sqrt(A), which is symmetric.
    shared = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
    gap = (features.mean(dim=0) - real["mu"]).square().sum()
    return float(gap + real["sigma"].trace() + covariance.trace() - 2 * shared)


@functools.cache
def _network() -> UNet:
    """What `pretrained.load("cfg_ema")` gives, without importing all that the course can draw and measure."""
    from ddpm_lib.checkpoints import load_tensors
    from ddpm_lib.config import config_from_dict
    from ddpm_lib.run_files import frozen_network

    tensors, metadata = load_tensors(WEIGHTS)
    return frozen_network(config_from_dict(metadata["config"]), tensors, WEIGHTS)


def _measured(draw: Callable[[Tensor], Tensor], thresholds: Sequence[float], seed: int) -> tuple[int, str]:
    """Points for pictures drawn from `[BATCH, 1, 28, 28]` noise, of all ten labels equally often."""
    from ddpm_lib.training import choose_precision, computing_in

    generator, cpu = torch.Generator().manual_seed(seed), torch.device("cpu")
    with torch.inference_mode(), computing_in(choose_precision("auto", cpu), cpu):
        noises = (torch.randn(BATCH, 1, 28, 28, generator=generator) for _ in range(SAMPLES // BATCH))
        images = torch.cat([draw(x_T).float() for x_T in noises])
    value = fid(images)
    points = sum(value < threshold for threshold in thresholds)
    return points, f"FID {value:.2f}: {points} of {len(thresholds)} points"


def _counted(model: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    count = 0

    def ask(x: Tensor, t: int) -> Tensor:
        nonlocal count
        count += 1
        if count > LOOKS:
            raise WrongAnswer(f"the model is asked more than {LOOKS} times")
        return model(x, t)

    return ask


def _leads_to_what_the_model_sees(fast_sample: FastSample, alpha_bars: Tensor) -> None:
    """A model that believes in one picture, whatever it is shown: every right sampler ends at this picture."""
    picture = torch.linspace(-1, 1, 784).reshape(1, 1, 28, 28)

    def believer(x: Tensor, t: int) -> Tensor:
        alpha_bar = float(alpha_bars[int(t)])
        return (x - alpha_bar**0.5 * picture) / (1 - alpha_bar) ** 0.5

    x_T = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    pictures = fast_sample(_counted(believer), x_T, alpha_bars)
    if not isinstance(pictures, Tensor) or pictures.shape != x_T.shape:
        raise WrongAnswer(f"fast_sample must return pictures of the shape of x_T, {list(x_T.shape)} here")
    gap = float((pictures - picture).abs().max())
    if not gap < 0.02:
        raise WrongAnswer(
            f"a model that sees the same clean picture in everything must lead to that picture; a pixel is {gap:.2g} "
            "away. Does the last step go all the way, to x_0?"
        )


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
