"""The workers of a sweep: a Dask cluster on this machine, which replaces workers that die, or one elsewhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

import dask
import psutil
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

from ddpm_lib.errors import InputError, SweepError
from ddpm_lib.execution import THREADS_VARIABLE
from ddpm_lib.machine import usable_cores

ASSUMED_GB = 2.0  # memory of a run without limit, for the number of workers
DEATHS = 10  # a run at which more workers died than that has failed: it is probably what kills them
CONNECT_SECONDS = 20
LOG = "workers.log"


class Cluster(Protocol):
    """Where the runs of a sweep are done."""

    client: Client
    about: str  # for the user: how many workers, and the dashboard

    def tend(self) -> None:
        """Called every second or so: replaces workers that died. Raises SweepError if that does not help."""


def worker_count(memory_gb: float | None = None) -> int:
    """How many workers of one thread this machine has cores and memory for; each run is taken to need `memory_gb`."""
    memory = min(psutil.virtual_memory().available, MEMORY_LIMIT) / 2**30
    return max(1, min(usable_cores(), int(memory / (memory_gb or ASSUMED_GB))))


@contextmanager
def local_cluster(workers: int, dashboard: bool, folder: Path) -> Iterator[Cluster]:
    """A scheduler in this process and `workers` processes; what they have to say goes to `folder`/workers.log.

    Each kernel gets its share of the cores, unless the user has set the number of threads.
    """
    _silence()
    address = "127.0.0.1:0" if dashboard else None
    with (
        # Saturation 1: no run waits for one that a worker is still at while another worker has nothing to do.
        dask.config.set(
            {"distributed.scheduler.allowed-failures": DEATHS, "distributed.scheduler.worker-saturation": 1.0}
        ),
        LocalCluster(n_workers=0, dashboard_address=address, silence_logs=logging.CRITICAL) as scheduler,
        Client(scheduler) as client,
        (folder / LOG).open("w") as log,
    ):
        about = f"{workers} workers" + (f"; Dask's dashboard: {scheduler.dashboard_link}" if dashboard else "")
        cluster = _Local(client, about, workers, log)
        try:
            cluster.tend()
            yield cluster
        finally:
            cluster.end()


@contextmanager
def cluster_at(address: str) -> Iterator[Cluster]:
    """An existing cluster. Raises InputError if no scheduler answers there."""
    _silence()
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}; start one: dask scheduler") from error
    try:
        yield _Elsewhere(client, address)
    finally:
        with suppress(OSError, TimeoutError):  # the scheduler may be gone
            client.close(timeout=2)


class _Local:
    """Workers without Dask's nanny: it gives up on a worker that dies while it is starting."""

    def __init__(self, client: Client, about: str, count: int, log: IO[str]) -> None:
        self.client, self.about, self.log = client, about, log
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self.ended_alone = 0

    def tend(self) -> None:
        for place, process in enumerate(self.processes):
            if process is not None and process.poll() is None:
                continue
            # One that was killed died from outside, however often; one that ended did so for a reason of its own.
            self.ended_alone += process is not None and process.returncode >= 0
            if self.ended_alone > 2 * len(self.processes):
                raise SweepError(f"the workers end as soon as they start; {self.log.name} says why")
            self.processes[place] = self._start()

    def end(self) -> None:
        for process in self.processes:
            if process is not None:
                process.kill()  # no run is going, or its kernel ends with its parent
                process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        options += ["--death-timeout", str(CONNECT_SECONDS)]  # if the sweep is killed before they have met
        threads = str(max(1, usable_cores() // len(self.processes)))
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", self.client.scheduler.address, *options],
            env={THREADS_VARIABLE: threads, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # Ctrl-C in the terminal is for the sweep, which ends the notebooks first
        )


class _Elsewhere:
    def __init__(self, client: Client, address: str) -> None:
        self.client = client
        here = len(client.scheduler_info()["workers"])
        self.about = f"{here} workers at {address}" + ("" if here else ": waiting for the first")

    def tend(self) -> None:
        """Whoever started the workers replaces them."""


def _silence() -> None:
    """Workers and schedulers are expected to die, and the sweep says so in its own words."""
    for name in list(logging.root.manager.loggerDict):  # each has a level of its own, from Dask's configuration
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
