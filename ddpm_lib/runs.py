"""A training run in a folder: stopped and resumed without a trace. What the folder holds: see run_files."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import getsource
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ddpm_lib.config import Config
from ddpm_lib.data import Split
from ddpm_lib.errors import InputError, Stopped
from ddpm_lib.files import atomic_write, locked, trainings_dir
from ddpm_lib.progress import ProgressBar
from ddpm_lib.run_files import LOG, PREVIOUS, STATE, resume, save_kept_weights, save_state
from ddpm_lib.training import StepReport, TrainingState, new_state, steps_per_epoch, train

Watch = Callable[[TrainingState, StepReport], bool]  # looks at each step; True: save and stop


def fit(
    config: Config,
    data: Split,
    folder: str | Path,
    keep: Iterable[int] | None = None,
    minutes: float = 10.0,
    use_previous: bool = False,
    progress: bool = True,
    watch: Watch | None = None,
) -> Path:
    """Trains a config to its end in `folder`, or goes on where an earlier call was stopped.

    A checkpoint is written at each epoch, every `minutes`, on Ctrl-C and at the end. Going on gives, on a CPU, the same
    bits as never having stopped.

    Args:
        config: the run; a folder belongs to one config for ever.
        data: the training images.
        folder: made if it is not there.
        keep: steps (from 1) at which the weights are kept; None: at the end of each epoch. The last step always is.
        minutes: the longest time between two checkpoints.
        use_previous: if the newest checkpoint is damaged, go on from the one before.
        progress: show a bar with loss and images a second.
        watch: called after each step, in the main process; where it returns True, the run is saved and stopped.

    Returns:
        The folder.

    Raises:
        CheckpointError: the checkpoint is damaged (unless `use_previous`) or belongs to another config.
        ConfigError: the batch size does not fit the images.
        InputError: a step to keep is not one of the run's.
        TrainingError: the loss is not finite; the last checkpoint stays.
        Stopped: after Ctrl-C or by `watch`, once the step is done and saved.
    """
    folder = Path(folder)
    state = new_state(config, len(data.images))
    if (folder / STATE).exists() or (folder / PREVIOUS).exists():
        resume(state, folder, use_previous)
    per_epoch = steps_per_epoch(len(data.images), config.batch_size)
    kept = set(range(per_epoch, state.total_steps, per_epoch) if keep is None else keep) | {state.total_steps}
    if outside := sorted(step for step in kept if not 1 <= step <= state.total_steps):
        raise InputError(f"keep asks for step {outside[0]}; the run has the steps 1 … {state.total_steps}")
    main = state.accelerator.is_main_process
    if main:
        for left_over in folder.rglob(".*.tmp"):  # by a kill in the middle of a write
            shutil.rmtree(left_over, ignore_errors=True)
    lines = _read_lines(folder, state.step)
    saved_at = time.monotonic()
    with (
        _stop_request() as stop,
        ProgressBar(total=state.total_steps, initial=state.step, unit="step", disable=not (progress and main)) as bar,
    ):
        if main and progress and state.step < state.total_steps:
            bar.write(
                f"training on {state.accelerator.device} in {state.accelerator.mixed_precision.replace('no', 'fp32')}"
            )
        for report in train(state, data):
            lines.append(json.dumps(vars(report)))
            bar.update()
            bar.set_postfix(loss=f"{report.loss:.3f}", images_per_s=f"{report.images_per_second:.0f}", refresh=False)
            wish = bool(main and watch is not None and watch(state, report))
            stopping = _any_process(wish or stop.is_set(), state.accelerator)
            due = state.step % per_epoch == 0 or time.monotonic() - saved_at > 60 * minutes
            if main and state.step in kept:
                save_kept_weights(state, folder)
            if main and (due or stopping or state.step == state.total_steps):
                atomic_write(folder / LOG, ("\n".join(lines) + "\n").encode())
                save_state(state, folder)
                saved_at = time.monotonic()
            if stopping:
                raise Stopped(f"stopped at step {state.step}; the same call goes on from there")
    state.accelerator.wait_for_everyone()
    return folder


def fit_cached(
    config: Config, data: Split, keep: Iterable[int] = (), progress: bool = True, watch: Watch | None = None
) -> Path:
    """`fit` in the project's cache: the first caller trains, every later one finds the run done.

    A run is known by its content: the config, the steps kept, the number of images, and the code that trains. Two
    notebooks that ask at once wait for one training.

    Returns:
        The run's folder, complete.
    """
    keep = sorted(set(keep))
    identity = json.dumps([config.key(), keep, len(data.images), training_code_hash()])
    folder = trainings_dir() / hashlib.sha256(identity.encode()).hexdigest()[:16]
    with locked(folder):
        if not (folder / "done.json").exists():
            fit(config, data, folder, keep, progress=progress, watch=watch)
            atomic_write(folder / "done.json", json.dumps(config.to_dict(), indent=1).encode())
    return folder


def short_training(
    data: Split,
    steps: int,
    conditional: bool = False,
    progress: bool = True,
    T: int = 1000,
    watch: Watch | None = None,
) -> Path:
    """The few minutes of training that notebooks share while no long run is at hand: half-trained, and meant to be.

    Not the report's recipe, but what shows most in a few minutes: small batches, so that the same number of images
    makes four times as many steps, and a learning rate that rises to 2e-3 and falls to nothing. Cached (see
    `fit_cached`).

    Args:
        data: the training images.
        steps: how many training steps, of 32 images; the weights are kept at eight moments on the way.
        conditional: with labels, dropped with probability 0.1, for guidance.
        progress: show a bar.
        T: how many timesteps; fewer than 1000 only to try a notebook out.
        watch: see `fit`.

    Returns:
        The run's folder, complete.
    """
    config = Config(
        T=T,
        conditional=conditional,
        epochs=steps / steps_per_epoch(len(data.images), 32),
        batch_size=32,
        lr=2e-3,
        lr_schedule="one_cycle",
        ema_beta=0.99,
        ema_start=steps // 4,
    )
    return fit_cached(config, data, {max(1, steps * eighth // 8) for eighth in range(1, 9)}, progress, watch)


def training_code_hash() -> str:
    """A hash of the code that decides what a training computes; comments and formatting do not count."""
    modules = ("schedules", "embedding", "unet", "diffusion", "guidance", "ema", "training")
    sources = [getsource(import_module(f"ddpm_lib.{name}")) for name in modules]
    return hashlib.sha256("".join(ast.dump(ast.parse(source)) for source in sources).encode()).hexdigest()[:16]


def _read_lines(folder: Path, step: int) -> list[str]:
    """The log's lines up to a step: what was logged after the checkpoint is done again."""
    path = folder / LOG
    return path.read_text().splitlines()[:step] if path.exists() else []


def _any_process(wish: bool, accelerator: Accelerator) -> bool:
    """Whether a process wishes to stop. All must stop after the same step: one that goes on waits for the others."""
    if accelerator.num_processes == 1:
        return wish
    return bool(accelerator.reduce(torch.tensor(float(wish), device=accelerator.device), reduction="sum"))


@contextmanager
def _stop_request() -> Iterator[threading.Event]:
    """Turns Ctrl-C into a request, so that it never falls into the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(*_: Any) -> None:
        stop.set()

    before = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
