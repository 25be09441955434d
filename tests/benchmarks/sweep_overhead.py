"""What `ddpm sweep` costs over plain papermill: the same notebooks, as many at a time, the two in turns.

    python tests/benchmarks/sweep_overhead.py notebooks/sweeps/guidance_sampler.yaml --runs 4 --rounds 3

Both times are of whole commands, with their start and, for the sweep, its table and summary at the end. What a sweep
costs once (Dask's start, the summary) weighs less the more runs there are: the ratio of few runs is an upper bound.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from ddpm_lib.execution import THREADS_VARIABLE
from ddpm_lib.machine import cpu_name, usable_cores
from ddpm_lib.sweeps.spec import SweepRun, load_sweep


def main(
    file: Annotated[Path, typer.Argument(help="A sweep's YAML file.")],
    runs: Annotated[int, typer.Option(min=1, help="How many of its runs, from the first on.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is timed.")] = 3,
) -> None:
    """Time a sweep's first runs by papermill and by `ddpm sweep`, in turns; write runs/bench/sweep_overhead.json."""
    chosen = load_sweep(file).runs[:runs]
    times: dict[str, list[float]] = {"papermill": [], "ddpm sweep": []}
    for _ in tqdm(range(rounds), desc="rounds"):
        times["papermill"].append(papermill_seconds(chosen))
        times["ddpm sweep"].append(sweep_seconds(file, len(chosen)))
    ratios = [ours / plain for plain, ours in zip(*times.values(), strict=True)]
    result = {"file": file.name, "runs": len(chosen), "cpu": cpu_name(), "seconds": times, "ratios": ratios}
    target = Path("runs/bench/sweep_overhead.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1))
    for name, seconds in times.items():
        typer.echo(f"{name:>10}: " + ", ".join(f"{value:.1f} s" for value in seconds))
    typer.echo(f"{len(chosen)} runs by `ddpm sweep` take {statistics.median(ratios):.3f} times as long (median)")


def papermill_seconds(runs: list[SweepRun]) -> float:
    """The time that papermill takes, called once a run, with a process of one thread on each core."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(lambda number: _papermill(runs[number], Path(place, f"{number}.ipynb")), range(len(runs))))
    return time.monotonic() - start


def sweep_seconds(file: Path, runs: int) -> float:
    """The time that `ddpm sweep` takes from nothing."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "ddpm_lib.cli", "sweep", str(file), "--out", place, "--limit", str(runs)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def _papermill(run: SweepRun, copy: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(run.notebook), str(copy), "--no-progress-bar"]
    for name, value in run.given.items():
        command += ["-p", name, str(value)]
    environment = {**os.environ, THREADS_VARIABLE: "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    typer.run(main)
