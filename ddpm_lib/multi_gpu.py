"""Several GPUs from a notebook: the same training, a process for each, started by Accelerate's `notebook_launcher`.

No GPU has run this yet. Two processes on a CPU have: the tests compare their weights with those of one process.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing import SignalException

from ddpm_lib.config import Config
from ddpm_lib.data import Split
from ddpm_lib.errors import ConfigError, InputError, Stopped
from ddpm_lib.runs import fit
from ddpm_lib.training import StepReport, TrainingState

EVERY = 10.0  # seconds between two lines of progress


def fit_on_all_gpus(
    config: Config, data: Split, folder: str | Path, keep: Iterable[int] | None = None, processes: int | None = None
) -> Path:
    """`fit`, with a process for each GPU; each takes its share of every batch. For notebooks.

    The batch stays the config's, and with it the weights, up to rounding: more GPUs make a step faster, not larger.
    Interrupting the kernel saves and stops. From a terminal: `accelerate launch -m ddpm_lib.cli train …`.

    It must be the first thing in the kernel that uses a GPU, because a process that is split off cannot go on with a
    GPU that its parent has opened. No GPU has run it yet, see above.

    Args:
        config, data, folder, keep: see `fit`.
        processes: how many; None: one for each GPU, one where there is none. They divide the batch size.

    Returns:
        The folder.

    Raises:
        ConfigError: the batch size is not a multiple of the number of processes.
        InputError: a GPU was used in this kernel before.
        Stopped: the kernel was interrupted; all processes have ended their step, and it is saved.
        Whatever else `fit` raises; from several processes as Torch's ChildFailedError.
    """
    folder, processes = Path(folder), max(1, torch.cuda.device_count()) if processes is None else processes
    if config.batch_size % processes:
        raise ConfigError(f"batch_size is {config.batch_size}, shared by {processes} processes; it must be a multiple")
    if processes == 1:
        return fit(config, data, folder, keep)
    if torch.cuda.is_initialized():
        raise InputError(
            "this kernel has used a GPU already; restart it, and call fit_on_all_gpus before anything else"
        )
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training here, which the launcher refuses
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    try:
        notebook_launcher(_fit, (config, data, folder, keep), num_processes=processes, use_port=port)
    except SignalException:
        raise Stopped(f"stopped and saved in {folder}; the same call goes on from there") from None
    return folder


def _fit(config: Config, data: Split, folder: Path, keep: Iterable[int] | None) -> None:
    """What each process does. Its display cannot reach the notebook, but its lines of text can."""
    torch.set_num_threads(1)  # a pool of threads does not survive the split: a second thread would be waited for
    due = time.monotonic()

    def tell(state: TrainingState, report: StepReport) -> bool:
        nonlocal due
        if time.monotonic() >= due or state.step == state.total_steps:
            due = time.monotonic() + EVERY
            speed = f"{report.images_per_second:,.0f} images a second"
            print(f"step {state.step:,} of {state.total_steps:,}: loss {report.loss:.3f}, {speed}", flush=True)
        return False

    fit(config, data, folder, keep, progress=False, watch=tell)
