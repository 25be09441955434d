"""What a run's folder holds is whole, and its own: whatever is damaged, or another run's, is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stopping import CONFIG, assert_same_run, damage, quiet_fit, step_of
from tiny import refused, tiny_config, tiny_data

from ddpm_lib import run_files
from ddpm_lib.checkpoints import load_tensors, save_tensors
from ddpm_lib.errors import CheckpointError, InputError
from ddpm_lib.run_files import PREVIOUS, STATE, load_model, read_log, resume, run_config
from ddpm_lib.training import new_state

# --- checkpoints


def test_two_checkpoints_are_there_the_newest_and_the_one_before(straight):
    assert step_of(straight / STATE) == 6
    assert step_of(straight / PREVIOUS) == 4


def test_a_disk_without_hard_links_will_do(tmp_path, straight, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(run_files.os, "link", no_links)
    quiet_fit(tmp_path)
    assert step_of(tmp_path / PREVIOUS) == 4
    assert_same_run(tmp_path, straight)


# --- the weights that a run kept


@pytest.mark.parametrize("weights", ["raw", "ema", "power_0.05", "power_0.10"])
def test_kept_weights_come_back_as_a_network(straight, weights):
    tensors, _ = load_tensors(straight / STATE)
    model = load_model(straight, weights=weights)
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[f"{weights}.{name}"])
    earlier = load_model(straight, step=4, weights=weights)
    assert not torch.equal(model.outc.weight, earlier.outc.weight)


def test_a_kept_network_fits_its_config(tmp_path):
    config = tiny_config(epochs=0.25, head_width=4)
    model = load_model(quiet_fit(tmp_path, config))
    assert model.num_classes is None
    assert model.sa1.heads == 16
    assert run_config(tmp_path) == config


# --- damaged, foreign, or another run's


def test_a_damaged_newest_checkpoint_is_refused_by_name(stopped):
    damage(stopped / STATE)
    with pytest.raises(CheckpointError, match=r"state\.safetensors does not match its own hash.*pass use_previous"):
        quiet_fit(stopped)


def test_use_previous_goes_on_from_the_checkpoint_before(stopped, straight):
    damage(stopped / STATE)
    quiet_fit(stopped, use_previous=True)
    assert_same_run(stopped, straight)


def test_a_damaged_checkpoint_never_takes_the_good_ones_place(stopped):
    damage(stopped / STATE)
    resume(new_state(CONFIG, 16), stopped, use_previous=True)
    # From here on a kill at any moment finds two whole checkpoints.
    assert step_of(stopped / STATE) == step_of(stopped / PREVIOUS) == 4


def test_use_previous_changes_nothing_where_the_newest_is_whole(stopped):
    state = new_state(CONFIG, 16)
    resume(state, stopped, use_previous=True)
    assert state.step == 5


def test_two_damaged_checkpoints_are_refused(stopped):
    damage(stopped / STATE)
    damage(stopped / PREVIOUS)
    with pytest.raises(CheckpointError, match=r"state\.previous\.safetensors does not match"):
        quiet_fit(stopped, use_previous=True)


def test_a_missing_newest_checkpoint_is_not_taken_for_a_new_run(stopped, straight):
    (stopped / STATE).unlink()
    with pytest.raises(CheckpointError, match=r"there is no checkpoint.*state\.safetensors.*use_previous"):
        quiet_fit(stopped)
    quiet_fit(stopped, use_previous=True)
    assert_same_run(stopped, straight)


def test_a_folder_belongs_to_one_config(straight):
    for changes, words in (
        ({"lr": 2e-3}, ["lr 0.001 (asked for: 0.002)"]),
        ({"seed": 1, "ema_beta": 0.5}, ["seed 0 (asked for: 1)", "ema_beta 0.9 (asked for: 0.5)"]),
        ({"conditional": False}, ["conditional True (asked for: False)"]),
        ({"head_width": 4}, ["head_width 16 (asked for: 4)"]),
        ({"epochs": 3.0}, ["epochs 1.5 (asked for: 3.0)", "total_steps 6 (asked for: 12)"]),
    ):
        with pytest.raises(CheckpointError) as caught:
            quiet_fit(straight, CONFIG.replace(**changes))
        for word in [f"{straight} belongs to another run", *words]:
            assert word in str(caught.value)


def test_a_run_on_fewer_images_is_another_run(straight):
    with pytest.raises(CheckpointError, match=r"total_steps 6 \(asked for: 4\)"):
        quiet_fit(straight, data=tiny_data(12))


def test_kept_weights_are_not_a_training_state(stopped):
    weights = stopped / "weights" / "step_000004.safetensors"
    (stopped / STATE).write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=r"state\.safetensors holds weights, not a training state"):
        quiet_fit(stopped)


# --- bad input


def _foreign_weights(folder: Path) -> Path:
    save_tensors(folder / "weights" / "step_000001.safetensors", {"a": torch.zeros(1)}, {"kind": "classifier"})
    return folder


BAD = {
    "a step not kept": (lambda run, _: load_model(run, step=5), CheckpointError, ["step 5", "[4, 6]"]),
    "weights of no run": (lambda _, new: load_model(new), CheckpointError, ["no weights", "none at all"]),
    "unknown weights": (lambda run, _: load_model(run, weights="emma"), InputError, ["'emma'", "did you mean ema?"]),
    "half a name": (lambda run, _: load_model(run, weights="power_0"), InputError, ["'power_0'", "power_0.05"]),
    "foreign weights": (lambda _, new: load_model(_foreign_weights(new)), CheckpointError, ["step_000001", "by hand"]),
    "a log of no run": (lambda _, new: read_log(new), CheckpointError, ["no log.jsonl"]),
    "a config of no run": (lambda _, new: run_config(new), CheckpointError, ["kept no weights"]),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(straight, tmp_path, call, error, words):
    with refused(words, error):
        call(straight, tmp_path)
