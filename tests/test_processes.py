"""`ddpm train` under torchrun: killed on two processes, resumed on one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from stopping import deterministic
from torch.testing import assert_close

from ddpm_lib.config import RECIPES
from ddpm_lib.data import load_fashion_mnist
from ddpm_lib.run_files import STATE, read_log, run_config
from ddpm_lib.runs import fit

SETTINGS = {"batch_size": 4, "epochs": 10, "T": 50, "precision": "fp32", "power_emas": False, "lr": 1e-4}
IMAGES = 16  # four steps an epoch


def test_a_run_killed_on_two_processes_goes_on_with_one(tmp_path: Path):
    folder = tmp_path / "run"
    settings = [word for name, value in SETTINGS.items() for word in ("-p", f"{name}={str(value).lower()}")]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ddpm_lib.cli", "train"]
    command += ["cfg", "--folder", str(folder), "--images", str(IMAGES), *settings]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        while not (folder / STATE).exists():
            assert launcher.poll() is None, launcher.communicate()[0]
            time.sleep(0.02)
        workers = psutil.Process(launcher.pid).children()
        workers[-1].kill()
        launcher.communicate(timeout=60)
    assert len(workers) == 2
    assert launcher.returncode != 0
    before = len(read_log(folder))

    config = RECIPES["cfg"].replace(**SETTINGS)
    assert run_config(folder) == config
    assert 0 < before < 40
    fit(config, load_fashion_mnist("train", IMAGES), folder, progress=False, keep=[40])

    steps, epochs, losses, rates = zip(*deterministic(folder), strict=True)
    assert steps == tuple(range(1, 41))
    straight = fit(config, load_fashion_mnist("train", IMAGES), tmp_path / "one", progress=False, keep=[40])
    expected_steps, expected_epochs, expected_losses, expected_rates = zip(*deterministic(straight), strict=True)
    assert (steps, epochs, rates) == (expected_steps, expected_epochs, expected_rates)
    assert_close(losses[:4], expected_losses[:4], rtol=1e-4, atol=1e-5)
    assert_close(sum(losses[-20:]), sum(expected_losses[-20:]), rtol=0.02, atol=0)
