"""Processes that a notebook starts train as one does, and stop together. On a CPU: no GPU has run this."""

from __future__ import annotations

import json
import signal
import time

import torch
from stopping import DATA, assert_trained_alike, step_of
from tiny import python, refused, tiny_config

from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.errors import ConfigError
from ddpm_lib.multi_gpu import fit_on_all_gpus
from ddpm_lib.run_files import STATE, kept_steps
from ddpm_lib.runs import fit

LAUNCHED = """if True:
    import json, sys
    from tiny import tiny_data
    from ddpm_lib.config import config_from_dict
    from ddpm_lib.errors import Stopped
    from ddpm_lib.multi_gpu import fit_on_all_gpus
    from ddpm_lib.training import new_state

    config, (to_the_end, stopped) = config_from_dict(json.loads(sys.argv[1])), sys.argv[2:]
    new_state(config, 16)  # as the cells before would have made one
    fit_on_all_gpus(config, tiny_data(), to_the_end, keep=[1], processes=2)
    try:
        fit_on_all_gpus(config.replace(epochs=1000.0), tiny_data(), stopped, processes=2)
    except Stopped as end:
        print(end)
    """


def test_two_launched_processes_give_the_weights_of_one_and_an_interruption_saves(tmp_path):
    config = tiny_config(epochs=0.5, lr=1e-4, conditional=True, drop_probability=0.5)
    fit(config, DATA, tmp_path / "one", keep=[1], progress=False)
    with python(LAUNCHED, json.dumps(config.to_dict()), tmp_path / "two", tmp_path / "stopped") as process:
        said = []
        while not any("of 4,000" in line for line in said):
            said.append(process.stdout.readline())
            assert said[-1], process.stderr.read()
        stopped_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert time.monotonic() - stopped_at < 20  # after 30 seconds the launcher kills
    assert any(line.startswith("step 2 of 2: loss ") for line in said)
    assert rest.splitlines()[-1] == f"stopped and saved in {tmp_path / 'stopped'}; the same call goes on from there"
    assert 1 <= step_of(tmp_path / "stopped" / STATE) < 4000

    (one, one_metadata), (two, two_metadata) = (load_tensors(tmp_path / name / STATE) for name in ("one", "two"))
    assert two_metadata == one_metadata
    assert_trained_alike(two, one, config.lr)
    assert kept_steps(tmp_path / "two") == [1, 2]


def test_a_single_process_is_this_one(tmp_path, capsys):
    config = tiny_config(epochs=0.25)
    assert fit_on_all_gpus(config, DATA, tmp_path, processes=1) == tmp_path
    assert "training on cpu" in capsys.readouterr().out
    assert step_of(tmp_path / STATE) == 1


def test_each_gpu_gets_a_process_and_they_must_divide_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with refused(["batch_size is 4", "3 processes"], ConfigError):
        fit_on_all_gpus(tiny_config(), DATA, tmp_path)


def test_a_gpu_that_is_in_use_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with refused(["used a GPU already", "restart"]):
        fit_on_all_gpus(tiny_config(), DATA, tmp_path)
    assert not list(tmp_path.iterdir())
