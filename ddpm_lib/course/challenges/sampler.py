"""Problem set 4's challenge: a sampler that asks the network five times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course.challenges.measuring import LABELS, measured, trained_network
from ddpm_lib.schedules import linear_schedule

LOOKS = 5
THRESHOLDS = (8.5, 5.3, 3.2, 1.9)

FastSample = Callable[[Callable[[Tensor, int], Tensor], Tensor, Tensor], Tensor]
"""fast_sample(model, x_T, alpha_bars) gives pictures; it calls model(x, t) at most `LOOKS` times."""


def five_looks(fast_sample: FastSample, seed: int = 1) -> tuple[int, str]:
    """Measures a student's sampler on the averaged weights of the last epoch, without guidance.

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
    network = trained_network()

    def draw(x_T: Tensor) -> Tensor:
        model = _counted(lambda x, t: network(x.float(), torch.full((len(x),), int(t)), LABELS).float())
        return fast_sample(model, x_T, alpha_bars)

    return measured(draw, THRESHOLDS, seed)


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
