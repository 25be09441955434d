"""A small run, ways to stop and to damage it, and what it means that two runs are the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_data
from torch import Tensor

from ddpm_lib import runs
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.config import Config
from ddpm_lib.data import Split
from ddpm_lib.run_files import STATE, kept_steps, read_log
from ddpm_lib.runs import fit

DATA = tiny_data()
# Six steps, the last one in the middle of the second epoch; everything that a checkpoint can hold.
CONFIG = tiny_config(conditional=True, power_emas=True, lr_schedule="one_cycle", epochs=1.5)


def quiet_fit(folder: Path, config: Config = CONFIG, data: Split = DATA, **options) -> Path:
    return fit(config, data, folder, progress=False, **options)


def deterministic(folder: Path) -> list[tuple]:
    """The log without the times."""
    return [(report.step, report.epoch, report.loss, report.lr) for report in read_log(folder)]


def assert_trained_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], lr: float) -> None:
    """Two short trainings whose sums were taken in another order: gradients agree to rounding, and so do weights.

    Adam divides a gradient by its own size. Where it is nearly nothing (as a key's bias in attention always is), the
    rounding decides the step: there, and nowhere else, weights part by up to `lr` a step.
    """
    assert ours.keys() == theirs.keys()
    apart, count = 0, 0
    for name, tensor in theirs.items():
        if "exp_avg" in name:  # the optimiser's means of the gradients and of their squares
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
        else:
            gap = (ours[name] - tensor).abs()
            assert float(gap.max()) <= lr, name
            apart, count = apart + int((gap > 1e-6 + 1e-5 * tensor.abs()).sum()), count + tensor.numel()
    assert apart < count / 1000


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def assert_same_run(folder: Path, straight: Path) -> None:
    (tensors, metadata), (expected, expected_metadata) = load_tensors(folder / STATE), load_tensors(straight / STATE)
    assert metadata == expected_metadata
    assert_same_bits(tensors, expected)
    assert deterministic(folder) == deterministic(straight)
    assert kept_steps(folder) == kept_steps(straight)
    for step in kept_steps(straight):
        name = f"weights/step_{step:06d}.safetensors"
        assert_same_bits(load_tensors(folder / name)[0], load_tensors(straight / name)[0])


@contextmanager
def interrupted_at(steps: int) -> Iterator[pytest.ExceptionInfo]:
    """The run inside gets a Ctrl-C in the middle of its `steps`-th step (of this call, from 1), and ends after it."""
    train = runs.train

    def interrupted(*arguments) -> Iterator:
        loop = train(*arguments)
        yield from islice(loop, steps - 1)
        signal.raise_signal(signal.SIGINT)
        yield from loop

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runs, "train", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            yield caught


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.unlink()  # another file under this name may be the same one
    path.write_bytes(raw)


def step_of(path: Path) -> int:
    return load_tensors(path)[1]["step"]
