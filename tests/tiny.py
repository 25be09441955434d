"""A tiny data set and quick configs, shared by the tests that train."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddpm_lib.config import Config
from ddpm_lib.data import Split
from ddpm_lib.errors import InputError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin  # the processes that `python` starts need not load it

# The tests prove things bit by bit on a CPU, also where a GPU is at hand. Accelerate reads this at its first use.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

TESTS = Path(__file__).resolve().parent


def tiny_data(n: int = 16) -> Split:
    """`n` different pictures of a bright bar, further to the right the higher the label."""
    labels = torch.arange(n) % 10
    images = torch.full((n, 1, 28, 28), -1.0)
    for index, image in enumerate(images):
        left, bottom = 2 + 2 * (index % 10), 24 - index // 10
        image[:, 3:bottom, left : left + 5] = 1.0
    return Split(images, labels)


def tiny_config(**changes: Any) -> Config:
    """Four steps of four images, in float32, with the average starting on the way."""
    return Config(batch_size=4, epochs=1.0, lr=1e-3, ema_beta=0.9, ema_start=1, precision="fp32").replace(**changes)


def their_scheduler(kind: type[SchedulerMixin], name: str, T: int, **options: Any) -> SchedulerMixin:
    """diffusers' scheduler on its own "linear" or "cosine" betas, accumulated in float64.

    Its float32 tables lose four of their seven digits in 1 - alpha_bar[t] / alpha_bar[t - 1] where betas are small.
    """
    names = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
    scheduler = kind(T, beta_start=1e-4, beta_end=0.02, beta_schedule=names[name], clip_sample=False, **options)
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    return scheduler


@contextmanager
def refused(words: Iterable[str], error: type[Exception] = InputError) -> Iterator[None]:
    """The block must raise the error, with a message that holds all the words."""
    import pytest  # the processes that `python` starts need not load it

    with pytest.raises(error) as caught:
        yield
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def python(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A second Python process that can import this file, on one thread; its output can be read."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=TESTS,  # first on its import path
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
