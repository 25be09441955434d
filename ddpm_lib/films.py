"""Sampling in slices: a sampler's steps are computed when they are looked at, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ddpm_lib.diffusion import Model
from ddpm_lib.live import STREAM
from ddpm_lib.samplers import SampleStep
from ddpm_lib.training import choose_precision, computing_in, generator_for

LOOK, EVERY = 3, 6  # a look after the third step, and then after every sixth


class Film:
    """A sampler's steps, each computed when it is first looked at, and kept.

    Args:
        x_T: what it starts from.
        start: gives the sampler, at its beginning.
    """

    def __init__(self, x_T: Tensor, start: Callable[[], Iterator[SampleStep]]) -> None:
        self.x_T = x_T
        self.steps: list[SampleStep] = []
        self._start = start
        self._rest: Iterator[SampleStep] | None = None

    def until(self, index: int) -> Iterator[SampleStep]:
        """Computes what is missing up to step `index`, from 1, and yields after each step."""
        while len(self.steps) < index:
            if self._rest is None:
                self.steps, self._rest = [], self._start()
            try:
                self.steps.append(next(self._rest))
            except BaseException:  # also an interruption: a generator that raised gives nothing more
                self._rest = None
                raise
            yield self.steps[-1]

    def before(self, index: int) -> Tensor:
        """The picture that step `index` starts from."""
        return self.steps[index - 2].x if index > 1 else self.x_T


def quick(model: nn.Module) -> Model:
    """The model in the number format that is fastest on its device; it answers in fp32, as ever."""
    device = next(model.parameters()).device
    precision = choose_precision("auto", device)
    if precision == "fp32":
        return model

    def predict(*arguments: Tensor | None) -> Tensor:
        with computing_in(precision, device):
            return model(*arguments).float()

    return predict


def noise(n: int, seed: int) -> Tensor:
    """`[n, 1, 28, 28]`: what a sampler starts from."""
    return torch.randn(n, 1, 28, 28, generator=generator_for(seed, STREAM))


def together(films: Sequence[Film], index: int) -> Iterator[int | None]:
    """Takes films to a step, side by side: yields the number of steps where it is time for a look, else None."""
    for now in range(1, index + 1):
        new = 0
        for film in films:
            for _ in film.until(now):
                new += 1
                yield None
        if now == index or (new and now % EVERY == LOOK and now < index - 2):  # the end comes soon enough
            yield now
