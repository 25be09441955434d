"""One run of a sweep, as a worker does it: once for all time, within its limits, its outcome written whole.

Everything about a sweep is in its folder, which scheduler, workers and `ddpm sweep` may share between machines:

    guidance_weight=0.5,sampler=ddim.3f2a9c1b.ipynb    the executed copies
    outcomes/3f2a9c1b….json                            a run's outcome, by its identity; what is there is done
    table.csv, table.parquet, summary.ipynb            written at the end (see summary)
"""

from __future__ import annotations

import asyncio
import json
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import psutil

from ddpm_lib.errors import SweepError
from ddpm_lib.execution import GRACE, Kernel, execute
from ddpm_lib.files import atomic_write, locked
from ddpm_lib.identity import code_hash, run_key
from ddpm_lib.machine import cpu_name
from ddpm_lib.results import recorded
from ddpm_lib.sweeps.spec import Limits, SweepRun

POLL = 0.2  # seconds between two looks at a run's limits


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    key: str
    name: str
    parameters: dict[str, Any]
    results: dict[str, Any]
    error: str | None  # which cell failed, and how; None: all cells ran
    seconds: float
    host: str
    processor: str
    python: str


def outcome_path(folder: Path, key: str) -> Path:
    """Where the outcome of a run is kept in its sweep's folder."""
    return folder / "outcomes" / f"{key}.json"


def copy_path(folder: Path, run: SweepRun) -> Path:
    """Where the executed copy of a run is."""
    return folder / f"{run.name}.ipynb"


def read_outcome(folder: Path, key: str) -> Outcome | None:
    """The outcome of a run; None if there is none yet. Raises SweepError if its file is damaged."""
    path = outcome_path(folder, key)
    try:
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise SweepError(f"{path} cannot be read ({error}); delete it, and the run is done again") from error


def perform(run: SweepRun, folder: Path, limits: Limits) -> Outcome:
    """Execute one run, unless it is done, and write its outcome; one that failed before is tried again.

    Another worker that is at the same run is waited for.

    Raises:
        SweepError: the code here is not what the run's identity says, before or after; or the sweep was stopped.
            Nothing is written then.
        NotebookError: the notebook cannot be read here.
        DDPMError: the folder cannot be written to.
    """
    with locked(folder / ".locks" / run.key):
        known = read_outcome(folder, run.key)
        if known is not None and known.error is None:
            return known
        _check_code(run)
        outcome = _execute(run, folder, limits)
        _check_code(run)
        atomic_write(outcome_path(folder, run.key), json.dumps(asdict(outcome), indent=1).encode())
        return outcome


async def stop_runs(folder: Path) -> None:
    """End this worker's runs of one sweep: as by Ctrl-C, at which a training saves its state; later by force."""
    for guard in Guard.active:
        if guard.folder == folder:
            guard.stopped.set()
    while any(guard.folder == folder for guard in Guard.active):
        await asyncio.sleep(POLL)


class Guard:
    """Watches one run and ends it: at a limit, or when its sweep is stopped."""

    active: ClassVar[list[Guard]] = []

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.deadline = time.monotonic() + 60 * limits.minutes if limits.minutes else float("inf")
        self.stopped, self.over = threading.Event(), threading.Event()
        self.reason: str | None = None  # why it was ended
        self.kernel = type("GuardedKernel", (Kernel,), {"started": []})  # one class a run, to find its process by

    @contextmanager
    def watching(self) -> Iterator[None]:
        """During the block the run is watched, by a thread of its own."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        self.active.append(self)
        watcher.start()
        try:
            yield
        finally:
            self.over.set()
            watcher.join()
            self.active.remove(self)

    def _watch(self) -> None:
        while self.reason is None:
            if self.over.wait(POLL):
                return
            if self.stopped.is_set():
                self.reason = "stopped"
            elif time.monotonic() > self.deadline:
                self.reason = f"it took longer than its limit of {self.limits.minutes:g} minutes"
            elif self.limits.memory_gb and self._used_gb() > self.limits.memory_gb:
                self.reason = f"it used more than its limit of {self.limits.memory_gb:g} GB of memory"
                self._signal(signal.SIGKILL)  # now: it may take more before it has answered to anything gentler
        self._signal(signal.SIGINT)
        force_from = time.monotonic() + GRACE
        while not self.over.wait(POLL):
            if time.monotonic() > force_from:
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for kernel in list(self.kernel.started):
            kernel.signal(number)

    def _used_gb(self) -> float:
        try:
            kernels = [psutil.Process(kernel.provisioner.process.pid) for kernel in list(self.kernel.started)]
            processes = [process for kernel in kernels for process in (kernel, *kernel.children(recursive=True))]
            return sum(process.memory_info().rss for process in processes) / 2**30
        except (AttributeError, psutil.Error):  # one is just starting, or ending
            return 0.0


def _execute(run: SweepRun, folder: Path, limits: Limits) -> Outcome:
    start = time.monotonic()
    guard = Guard(folder, limits)
    copy = copy_path(folder, run)
    with guard.watching():
        error = execute(run.notebook, copy, run.given, guard.kernel)
    if guard.stopped.is_set() and error:
        raise SweepError(f"{run.label}: stopped")
    results = {} if error else recorded(nbformat.read(copy, as_version=4))
    if twice := sorted(results.keys() & run.parameters.keys()):
        error = f"it records {twice[0]}, which is the name of a parameter; choose another name"
    if error and guard.reason:
        error = f"{guard.reason}; {error}"
    return Outcome(
        key=run.key,
        name=run.name,
        parameters=run.parameters,
        results=results,
        error=error,
        seconds=round(time.monotonic() - start, 3),
        host=platform.node(),
        processor=cpu_name(),
        python=platform.python_version(),
    )


def _check_code(run: SweepRun) -> None:
    if run_key(code_hash(run.notebook), run.parameters) != run.key:
        raise SweepError(
            f"{run.label}: the notebook or the library on {platform.node()} is not what the sweep was started with "
            f"(Python {platform.python_version()}); start it again once the code is at rest and everywhere the same"
        )
