"""Runs a sweep on Dask: what is missing is handed out, what is done stays done, whatever dies meanwhile.

The state of a sweep is in its folder alone (see worker), so this process, workers and scheduler may end at any
moment: called again, `run_sweep` completes what is missing.
"""

from __future__ import annotations

import queue
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from distributed import Future, KilledWorker
from distributed.comm import CommClosedError
from tqdm import tqdm

from ddpm_lib.errors import InputError, SweepError
from ddpm_lib.sweeps.cluster import Cluster, cluster_at, local_cluster, worker_count
from ddpm_lib.sweeps.spec import Sweep, SweepRun
from ddpm_lib.sweeps.worker import Outcome, outcome_path, perform, read_outcome, stop_runs


def run_sweep(
    sweep: Sweep,
    folder: Path,
    runs: Sequence[SweepRun] | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    dashboard: bool = True,
) -> dict[str, str]:
    """Do the runs of a sweep that are not done, on workers of this machine or on a cluster.

    Args:
        sweep: from `load_sweep`.
        folder: the sweep's; workers on other machines must see it, and the notebook, under the same path.
        runs: only these; None: all. Those that are done are passed over.
        scheduler: the address of a Dask scheduler, as in tcp://host:8786; None: start one here.
        workers: how many to start here; None: `worker_count`.
        dashboard: serve Dask's dashboard, and say where.

    Returns:
        The runs that gave no outcome at all, by key, and why: their workers died, or have other code. Notebooks that
        failed are not among them: they have an outcome, with the error in it.

    Raises:
        InputError: no scheduler answers at that address; the folder cannot be made.
        SweepError: the scheduler went away; workers end as soon as they start; an outcome's file is damaged.
        DDPMError: the folder cannot be written to.
        KeyboardInterrupt: once the notebooks that were running have been ended.
    """
    folder = folder.absolute()
    todo = missing(folder, sweep.runs if runs is None else runs)
    if not todo:
        return {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}; choose another") from error
    if scheduler is not None:
        place = cluster_at(scheduler)
    else:
        count = min(worker_count(sweep.limits.memory_gb), len(todo)) if workers is None else workers
        place = local_cluster(count, dashboard, folder)
    with place as cluster:
        print(cluster.about)
        return _hand_out(cluster, sweep, folder, todo)


def missing(folder: Path, runs: Sequence[SweepRun]) -> list[SweepRun]:
    """The runs that are still to be done: never tried, or failed."""
    outcomes = [read_outcome(folder, run.key) for run in runs]
    return [run for run, outcome in zip(runs, outcomes, strict=True) if outcome is None or outcome.error is not None]


def estimate_seconds(folder: Path, count: int, workers: int) -> float | None:
    """How long `count` runs will take, by the median of the runs that are done; None: none is."""
    keys = [path.stem for path in (folder / "outcomes").glob("*.json")]
    outcomes = [read_outcome(folder, key) for key in keys]
    seconds = [outcome.seconds for outcome in outcomes if outcome is not None and outcome.error is None]
    return statistics.median(seconds) * -(-count // workers) if seconds else None


def _hand_out(cluster: Cluster, sweep: Sweep, folder: Path, todo: Sequence[SweepRun]) -> dict[str, str]:
    client = cluster.client
    answers: queue.SimpleQueue[Future] = queue.SimpleQueue()
    waiting: dict[tuple[str, int], SweepRun] = {}
    lost: dict[str, str] = {}
    done = len(sweep.runs) - len(missing(folder, sweep.runs))
    live = sys.stderr.isatty()
    form = "{percentage:3.0f}%|{bar}| run {n}/{total}, {elapsed} gone, {remaining} left"
    with tqdm(total=done + len(todo), initial=done, mininterval=0.1 if live else 15, bar_format=form) as bar:
        futures = []
        # Keys of its own for each call: tasks of a dead client with the same ones would be mixed up with ours. And all
        # of one group: those the scheduler keeps back until a worker is free, others it gives out at once.
        group = f"{sweep.name}-{uuid4().hex}"
        for number, run in enumerate(todo):
            future = client.submit(perform, run, folder, sweep.limits, key=(group, number), pure=False)
            waiting[future.key] = run
            future.add_done_callback(answers.put)
            futures.append(future)
        try:
            while waiting:
                cluster.tend()
                try:
                    future = answers.get(timeout=1)
                except queue.Empty:
                    if live:
                        bar.refresh()  # the clock goes on
                    continue
                run = waiting.pop(future.key)
                answer = _answer(future, folder)
                if isinstance(answer, Outcome):
                    line = f"{'failed' if answer.error else 'ok':8} {answer.seconds:8.1f} s  {run.name}"
                else:
                    line, lost[run.key] = f"{'lost':8} {'':10}  {run.name}", answer
                bar.write(line, file=sys.stdout)
                bar.update()
        except KeyboardInterrupt:
            client.cancel(futures)
            client.run(stop_runs, folder)
            raise
    return lost


def _answer(future: Future, folder: Path) -> Outcome | str:
    """What came of a run, or why nothing did. Raises SweepError if the scheduler is gone."""
    gone = SweepError("the Dask scheduler has gone away; the same command, with one that runs, does what is missing")
    if future.status == "finished":
        try:
            outcome = future.result()
        except CommClosedError:  # it went while it was being asked
            raise gone from None
        if outcome_path(folder, outcome.key).exists():
            return outcome
        return f"{outcome.host} has done it, but {folder} here does not show it: the folder must be a shared one"
    if future.status != "error":
        raise gone
    error = future.exception()
    if isinstance(error, KilledWorker):
        return f"{error.allowed_failures + 1} workers died while they were at it; out of memory?"
    return str(error) or type(error).__name__
