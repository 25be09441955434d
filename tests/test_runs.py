"""A run that was stopped or killed goes on without a trace, and a cached one is not run again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from stopping import CONFIG, DATA, assert_same_run, interrupted_at, quiet_fit, step_of
from tiny import python, refused, tiny_config, tiny_data

from ddpm_lib import runs
from ddpm_lib.data import Split
from ddpm_lib.errors import ConfigError, InputError, Stopped, TrainingError
from ddpm_lib.run_files import LOG, STATE, kept_steps, read_log
from ddpm_lib.runs import fit, fit_cached, short_training, training_code_hash
from ddpm_lib.training import StepReport, TrainingState, epoch_order, steps_per_epoch

# --- stopped and resumed


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_resume_gives_the_same_bits(tmp_path, straight, steps):
    with interrupted_at(steps):
        quiet_fit(tmp_path)
    assert step_of(tmp_path / STATE) == steps
    quiet_fit(tmp_path)
    assert_same_run(tmp_path, straight)


def test_resume_after_every_single_step_gives_the_same_bits(tmp_path, straight):
    for steps in range(1, 7):
        with interrupted_at(1):
            quiet_fit(tmp_path)
        assert step_of(tmp_path / STATE) == steps
    assert_same_run(tmp_path, straight)


def test_ctrl_c_ends_the_step_saves_and_says_so(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with interrupted_at(2) as caught:
        quiet_fit(tmp_path)
    assert str(caught.value) == "stopped at step 2; the same call goes on from there"
    assert signal.getsignal(signal.SIGINT) is before
    assert step_of(tmp_path / STATE) == 2
    assert [report.step for report in read_log(tmp_path)] == [1, 2]


def test_whoever_watches_sees_every_step_and_can_stop_the_run(tmp_path, straight):
    seen = []

    def watch(state: TrainingState, report: StepReport) -> bool:
        seen.append((state.step, report.step))
        return state.step == 3

    with pytest.raises(Stopped, match="stopped at step 3; the same call goes on from there"):
        quiet_fit(tmp_path, watch=watch)
    assert step_of(tmp_path / STATE) == 3
    quiet_fit(tmp_path, watch=watch)
    assert seen == [(step, step) for step in (1, 2, 3, 4, 5, 6)]
    assert_same_run(tmp_path, straight)


def test_a_finished_run_is_left_alone(tmp_path):
    config = tiny_config(epochs=0.25)
    quiet_fit(tmp_path, config)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    quiet_fit(tmp_path, config)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_nan_loss_leaves_the_last_checkpoint_and_a_healthy_run_goes_on(stopped, straight):
    images = DATA.images.clone()
    images[epoch_order(16, CONFIG.seed, 1)[4:8]] = torch.nan  # what the second step of the second epoch looks at
    with pytest.raises(TrainingError, match="the loss is nan at step 6"):
        quiet_fit(stopped, data=Split(images, DATA.labels))
    assert step_of(stopped / STATE) == 5
    quiet_fit(stopped)
    assert_same_run(stopped, straight)


# --- what a run writes


def test_by_default_the_weights_of_each_epoch_and_of_the_last_step_are_kept(straight):
    assert kept_steps(straight) == [4, 6]


def test_the_steps_asked_for_are_kept_and_the_last_one_always(tmp_path):
    quiet_fit(tmp_path, tiny_config(), keep=iter([3, 1, 3]))
    assert kept_steps(tmp_path) == [1, 3, 4]


def test_the_log_has_a_line_for_each_step(straight):
    assert [report.step for report in read_log(straight)] == [1, 2, 3, 4, 5, 6]
    assert [json.loads(line)["step"] for line in (straight / LOG).read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    for folder in (tmp_path, tmp_path / "weights"):
        (folder / ".state.safetensors-x1.tmp").mkdir(parents=True)
        (folder / ".state.safetensors-x1.tmp" / "state.safetensors").write_bytes(b"half")
    quiet_fit(tmp_path, tiny_config(epochs=0.25))
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_line_at_the_start_names_device_and_precision(tmp_path, capsys):
    fit(tiny_config(epochs=0.25), DATA, tmp_path)
    assert "training on cpu in fp32" in capsys.readouterr().out


# --- bad input


BAD = {
    "keep beyond the end": (lambda new: quiet_fit(new, keep=[7]), InputError, ["step 7", "1 … 6"]),
    "keep step 0": (lambda new: quiet_fit(new, keep=[0, 3]), InputError, ["step 0", "1 … 6"]),
    "too few images": (lambda new: quiet_fit(new, data=tiny_data(3)), ConfigError, ["batch_size is 4", "3 images"]),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(tmp_path, call, error, words):
    with refused(words, error):
        call(tmp_path)


# --- killed


KILLED_RUNS = """if True:
    import os, signal, sys
    from tiny import tiny_config, tiny_data
    from ddpm_lib.runs import fit

    def die_at_operation(number, folder):
        # Python announces every opening, renaming, linking and removing of a file before it happens.
        count = 0
        def hook(event, arguments):
            nonlocal count
            if event.startswith(("open", "os.", "shutil.")) and folder in str(arguments):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)

    config, data = tiny_config(batch_size=2, conditional=True, epochs=15.0), tiny_data(8)
    straight, killed = sys.argv[1:]
    fit(config, data, straight, keep=[3, 11], progress=False)
    for line in sys.stdin:  # each line is a run: minutes between checkpoints, and at which file operation to die, or 0
        minutes, operation = line.split()
        if (child := os.fork()) == 0:
            if int(operation):
                die_at_operation(int(operation), killed)
            fit(config, data, killed, keep=[3, 11], minutes=float(minutes), progress=False)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    """


def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    """Ten kills at random moments, ten exactly before a file operation; each run is one fork of one process."""
    moments = random.Random(0)
    killed, newest = tmp_path / "killed", tmp_path / "killed" / STATE
    steps = []

    with python(KILLED_RUNS, tmp_path / "straight", killed) as parent:

        def start(minutes: int = 0, operation: int = 0) -> int:
            print(minutes, operation, file=parent.stdin, flush=True)
            return int(parent.stdout.readline())

        def exit_code() -> int:
            return int(parent.stdout.readline())

        def changed_at() -> int:
            return newest.stat().st_mtime_ns if newest.exists() else 0

        for kill in range(10):  # with minutes=0 there is a checkpoint after every step
            before, child = changed_at(), start()
            while changed_at() == before:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            assert exit_code() == -signal.SIGKILL
            steps.append(step_of(newest))  # whole, whenever the kill came

            start(operation=3 * (kill + 1))  # of about 24: log, previous checkpoint, newest checkpoint
            assert exit_code() == -signal.SIGKILL
            steps.append(step_of(newest))
        start(minutes=60)
        assert exit_code() == 0
        parent.stdin.close()
        assert parent.wait(timeout=30) == 0

    assert steps == sorted(steps)
    assert 0 < steps[-1] < 60
    assert_same_run(killed, tmp_path / "straight")


# --- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_fit_cached_trains_once(cache, monkeypatch):
    config = tiny_config(epochs=0.5)
    folder = fit_cached(config, DATA, keep=[1], progress=False)
    assert folder.parent == cache / "trainings"
    assert kept_steps(folder) == [1, 2]
    monkeypatch.setattr(runs, "fit", None)  # calling it again would be an error
    assert fit_cached(config, DATA, keep=iter([1, 1]), progress=False) == folder


def test_fit_cached_goes_on_with_what_was_interrupted(cache):
    config = tiny_config(epochs=0.5)
    with interrupted_at(1):
        fit_cached(config, DATA, progress=False)
    (state,) = cache.rglob(STATE)
    assert step_of(state) == 1
    assert fit_cached(config, DATA, progress=False) == state.parent
    assert kept_steps(state.parent) == [2]


def test_another_config_data_keep_or_code_is_another_training(cache, monkeypatch):
    monkeypatch.setattr(runs, "fit", lambda *_, **__: None)
    folders = [
        fit_cached(tiny_config(), DATA),
        fit_cached(tiny_config(seed=1), DATA),
        fit_cached(tiny_config(), tiny_data(12)),
        fit_cached(tiny_config(), DATA, keep=[2]),
    ]
    monkeypatch.setattr(runs, "training_code_hash", lambda: "another")
    folders.append(fit_cached(tiny_config(), DATA))
    assert len(set(folders)) == 5


def test_two_processes_that_ask_at_once_get_one_training(tmp_path):
    script = """if True:
        import sys
        from tiny import tiny_config, tiny_data
        from ddpm_lib import runs
        fit = runs.fit
        def counted(*arguments, **options):
            with open(sys.argv[1], "a") as file:
                file.write("trained\\n")
            return fit(*arguments, **options)
        runs.fit = counted
        print("ready", flush=True)
        sys.stdin.readline()
        print(runs.fit_cached(tiny_config(epochs=0.5), tiny_data(), progress=False))
        """
    count = tmp_path / "count"
    processes = [python(script, count, DDPM_CACHE=str(tmp_path / "cache")) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        print("go", file=process.stdin, flush=True)
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    folders = {output.strip() for output, _ in outputs}
    assert len(folders) == 1
    assert count.read_text() == "trained\n"
    assert kept_steps(folders.pop()) == [2]


def test_a_short_training_keeps_eight_moments(monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "fit_cached", lambda *arguments: asked.append(arguments))
    data = Split(torch.zeros(1280, 1, 28, 28), torch.zeros(1280, dtype=torch.int64))
    short_training(data, steps=200, conditional=True, progress=False, T=500, watch=print)
    ((config, _, keep, progress, watch),) = asked
    assert config.T == 500
    assert keep == {25, 50, 75, 100, 125, 150, 175, 200}
    assert config.conditional
    assert round(config.epochs * steps_per_epoch(1280, config.batch_size)) == 200
    assert config.ema_start == 50
    assert progress is False
    assert watch is print


def test_comments_and_layout_do_not_make_another_training(monkeypatch):
    before, read = training_code_hash(), runs.getsource
    monkeypatch.setattr(runs, "getsource", lambda module: read(module).replace("\ndef ", "\n\n# a remark\ndef "))
    assert training_code_hash() == before


@pytest.mark.parametrize("module", ["schedules", "embedding", "unet", "diffusion", "guidance", "ema", "training"])
def test_changed_code_makes_another_training(monkeypatch, module):
    before, read = training_code_hash(), runs.getsource
    change = {f"ddpm_lib.{module}": "\nextra = 1\n"}
    monkeypatch.setattr(runs, "getsource", lambda source: read(source) + change.get(source.__name__, ""))
    assert training_code_hash() != before
