"""Runs tasks side by side, each in a process of its own: one that hangs or crashes does the others no harm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

from tqdm import tqdm


def run_each(
    function: Callable[[Any], None],
    tasks: Mapping[str, Any],
    jobs: int | None,
    limit: float,
    unit: str,
    done: Callable[[str, float], None] = lambda key, seconds: None,
) -> None:
    """Calls a function once for each task, with a progress bar.

    Args:
        function: of a module, so that another process can import it; what it prints is dropped.
        tasks: its arguments, by a name.
        jobs: how many at a time; None: one for each core that this process may use.
        limit: seconds after which a task is killed, with all processes of its session.
        unit: what the progress bar counts.
        done: called after each task, however it ended, with its name and seconds.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = multiprocessing.get_context("forkserver")  # forks of a process that has imported everything already
    context.set_forkserver_preload([function.__module__])
    waiting, running = list(tasks), {}
    try:
        with tqdm(total=len(tasks), unit=unit) as bar:
            while waiting or running:
                while waiting and len(running) < (jobs or cores):
                    process = context.Process(target=_quietly, args=(function, tasks[waiting[0]]), daemon=False)
                    process.start()
                    running[waiting.pop(0)] = (process, time.monotonic())
                time.sleep(0.05)
                for key, (process, start) in list(running.items()):
                    if process.is_alive() and time.monotonic() - start < limit:
                        continue
                    _end(process)
                    del running[key]
                    done(key, time.monotonic() - start)
                    bar.update()
    finally:
        for process, _ in running.values():
            _end(process)


def _quietly(function: Callable[[Any], None], task: Any) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    function(task)


def _end(process: BaseProcess) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if process.is_alive() and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)  # bubblewrap ends with its parent, and the kernel with bubblewrap
    if process.is_alive():
        process.kill()
    process.join()
