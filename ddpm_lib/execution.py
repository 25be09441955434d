"""Runs notebooks, each from top to bottom in a fresh kernel of this environment."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ipykernel.kernelspec
import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from ddpm_lib.errors import NotebookError
from ddpm_lib.machine import usable_cores
from ddpm_lib.progress import followed

THREADS_VARIABLE = "OMP_NUM_THREADS"
GRACE = 10  # seconds that a kernel has to end by itself
BAR = "{desc}{percentage:3.0f}%|{bar}| cell {n}/{total}, "
TIMES = "{elapsed} gone, {remaining} left"
LOGGED_EVERY = 15  # seconds; a log file needs no animation

logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it repeats on stderr what `Run.error` says


class Run(NamedTuple):
    """One executed notebook."""

    notebook: Path
    copy: Path  # the executed copy; where a cell failed, with its traceback
    seconds: float
    error: str | None  # which cell failed, and how; None: all cells ran


class Kernel(AsyncKernelManager):
    """A kernel on the running Python, whatever "python3" kernel the user has installed for something else."""

    started: ClassVar[list[Kernel]] = []

    @property
    def kernel_spec(self) -> KernelSpec:
        resources = ipykernel.kernelspec.RESOURCES
        return KernelSpec(resource_dir=resources, **ipykernel.kernelspec.get_kernel_dict())

    async def start_kernel(self, **arguments: Any) -> None:
        self.started.append(self)
        # stderr: the kernel's own log would tear the progress bar; what cells print comes another way.
        await self._async_start_kernel(stderr=subprocess.DEVNULL, **arguments)

    def signal(self, number: int) -> None:
        """Send a signal to the kernel's process, if there is one. Any thread may call this."""
        if process := getattr(self.provisioner, "process", None):
            process.send_signal(number)


def run_notebooks(plan: Mapping[Path, Mapping[str, Any]], out: Path, jobs: int = 1) -> list[Run]:
    """Execute every notebook of the plan with its parameters, `jobs` side by side, under one progress bar.

    The executed copies go to `out`, under the notebooks' own names. Each notebook has its own kernel, whose
    working directory is the notebook's folder. A failing cell ends its notebook; the others run all the same,
    and the copy is kept. KeyboardInterrupt ends the kernels, then goes on to the caller.
    Raises NotebookError if `out` cannot be a folder.
    """
    out = out.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotebookError(f"the folder {out} cannot be made: {error.strerror}; choose another") from error
    runs = {}
    with (
        _divided_cores(jobs),
        followed() as lines,
        _Progress(plan, lines) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        waiting = {
            pool.submit(_run_one, notebook.absolute(), parameters, out / notebook.name, progress)
            for notebook, parameters in plan.items()
        }
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                progress.tick()
                for run in (future.result() for future in done):
                    runs[run.notebook] = run
                    progress.say(result_line(run))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            _end_kernels(waiting)
            raise
    return [runs[notebook.absolute()] for notebook in plan]


def _end_kernels(runs: set[Future[Run]]) -> None:
    """First as by Ctrl-C, at which a training saves its state; those that go on after some seconds, by force."""
    for kernel in list(Kernel.started):
        kernel.signal(signal.SIGINT)
    wait([run for run in runs if run.running()], timeout=GRACE)
    while any(run.running() for run in runs):  # repeatedly: a kernel may just be starting
        for kernel in list(Kernel.started):
            kernel.signal(signal.SIGKILL)
        wait(runs, timeout=0.5)


def result_line(run: Run) -> str:
    """One line of the table of results."""
    return f"{run.notebook.stem:28} {'failed' if run.error else 'ok':8} {run.seconds:8.0f} s"


def execute(
    notebook: Path,
    copy: Path,
    parameters: Mapping[str, Any],
    kernel: type[Kernel] = Kernel,
    on_cell_executed: Callable[..., None] | None = None,
) -> str | None:
    """Execute one notebook from top to bottom in a kernel of its own, whose working directory is its folder.

    Args:
        notebook, copy: absolute paths; the copy is written also where a cell fails, with its traceback.
        parameters: what papermill sets.
        kernel: the class of its kernel, for those who want to find it.
        on_cell_executed: called after each cell, by keywords.

    Returns:
        Which cell failed, and how; None: all cells ran.
    """
    begun = ""  # the first line of the newest cell

    def begin(cell: NotebookNode, **_: Any) -> None:
        nonlocal begun
        begun = next(iter(cell.source.splitlines()), "")

    try:
        # The folder goes in as a resource: with `cwd`, papermill changes the directory of the whole process.
        papermill.execute_notebook(
            notebook,
            copy,
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            kernel_manager_class=kernel,
            resources={"metadata": {"path": str(notebook.parent)}},
            on_cell_execute=begin,
            on_cell_executed=on_cell_executed,
        )
    except PapermillExecutionError as failure:
        reason = " ".join(failure.evalue.split())
        return f"cell [{failure.exec_count}] `{begun}`: {failure.ename}: {reason}"
    except DeadKernelError:
        return f"cell `{begun}`: the kernel died; out of memory?"
    except (CellControlSignal, RuntimeError, OSError) as failure:  # no start, no answer, disk full
        return f"{type(failure).__name__}: {failure}"
    return None


def _run_one(notebook: Path, parameters: Mapping[str, Any], copy: Path, progress: _Progress) -> Run:
    start = time.monotonic()
    progress.begin(notebook)
    error = execute(notebook, copy, parameters, on_cell_executed=lambda **_: progress.step())
    progress.end(notebook)
    return Run(notebook, copy, time.monotonic() - start, error)


@contextmanager
def _divided_cores(jobs: int) -> Iterator[None]:
    """Kernels that start meanwhile get an equal share of the cores, unless the user has set the number."""
    if jobs == 1 or THREADS_VARIABLE in os.environ:
        yield
        return
    os.environ[THREADS_VARIABLE] = str(max(1, usable_cores() // jobs))
    try:
        yield
    finally:
        del os.environ[THREADS_VARIABLE]


class _Progress:
    """One bar over all code cells of the series, naming the notebooks that are running.

    While a cell shows a bar of its own, that one's line stands in place of the time left: it knows better.
    """

    def __init__(self, plan: Mapping[Path, Mapping[str, Any]], lines: Callable[[], list[str]]) -> None:
        # The cell in which papermill sets the parameters counts, too.
        total = sum(_count_cells(notebook) + bool(given) for notebook, given in plan.items())
        self.running: list[str] = []
        self.lines = lines
        self.live = sys.stderr.isatty()
        self.shown = time.monotonic()
        self.bar = tqdm(total=total, mininterval=0.1 if self.live else LOGGED_EVERY, bar_format=BAR + TIMES)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def begin(self, notebook: Path) -> None:
        self.running.append(notebook.stem)
        self._describe()

    def step(self) -> None:
        self.bar.update(1)

    def end(self, notebook: Path) -> None:
        self.running.remove(notebook.stem)
        self._describe()

    def tick(self) -> None:
        """The clock, and a long cell's own bar, go on; in a file at times, and only if there is such a bar."""
        lines = self.lines()
        self.bar.bar_format = BAR + ("; ".join(lines).replace("{", "{{").replace("}", "}}") or TIMES)
        if self.live or (lines and time.monotonic() - self.shown >= LOGGED_EVERY):
            self.bar.refresh()
            self.shown = time.monotonic()

    def say(self, line: str) -> None:
        self.bar.write(line, file=sys.stdout)

    def _describe(self) -> None:
        self.bar.set_description(" + ".join(self.running), refresh=self.live)


def _count_cells(notebook: Path) -> int:
    cells = nbformat.read(notebook, as_version=4).cells
    return sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)
