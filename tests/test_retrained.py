"""The models trained here stand in for the shipped ones: same functions, on what this machine trained and measured."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from stopping import assert_same_bits
from tiny import refused, tiny_config, tiny_data

from ddpm_lib import evaluation, pretrained, retrained, studies
from ddpm_lib.config import RECIPES
from ddpm_lib.files import TRAININGS_VARIABLE
from ddpm_lib.posthoc import posthoc_weights, power_profile, power_snapshots
from ddpm_lib.records import record_run
from ddpm_lib.run_files import load_model
from ddpm_lib.studies import Setting, measured


@pytest.fixture(scope="module", autouse=True)
def trainings(tmp_path_factory):
    """Two epochs of two steps stand for the recipe; few samples are measured, against few real images."""
    folder = tmp_path_factory.mktemp("trainings")
    recipe = tiny_config(T=20, conditional=True, epochs=2.0, batch_size=8, power_emas=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRAININGS_VARIABLE, str(folder))
        patch.setitem(RECIPES, "cfg", recipe)
        patch.setattr(retrained, "load_fashion_mnist", lambda split: tiny_data(16))
        patch.setattr(evaluation, "REFERENCE", 200)
        patch.setattr(retrained, "GUIDANCE_WEIGHTS", (0.0,))
        few = partial(record_run, n=100, progress=False)
        patch.setattr(retrained, "record_run", few)
        yield folder
    retrained.run.cache_clear()
    retrained.load.cache_clear()


@pytest.mark.parametrize("name", ["load", "snapshots", "fingerprint", "schedule", "records", "samples"])
def test_a_notebook_may_take_either_module(name: str):
    ours, theirs = inspect.signature(getattr(retrained, name)), inspect.signature(getattr(pretrained, name))
    assert ours.parameters == theirs.parameters


def test_all_models_of_a_recipe_come_from_one_training(trainings):
    folder = retrained.run("cfg")
    for name, weights in (("cfg", "raw"), ("cfg_ema", "ema")):
        for epoch, step in ((1, 2), (2, 4), (None, 4)):
            assert_same_bits(retrained.load(name, epoch).state_dict(), load_model(folder, step, weights).state_dict())
    assert [path.parent for path in trainings.glob("*/done.json")] == [folder]


def test_an_average_of_any_width_is_made_of_all_snapshots():
    kept = power_snapshots(retrained.run("cfg"))
    assert retrained.snapshots("cfg").keys() == kept.keys()
    assert len(kept) == 4
    rebuilt = retrained.load("cfg", sigma_rel=0.07).state_dict()
    assert_same_bits(rebuilt, posthoc_weights(kept, power_profile(0.07, 4)))


def test_every_epoch_is_measured_and_its_samples_are_kept():
    records = retrained.records("cfg_ema")
    assert {record.weights for record in records} == {"ema"}
    assert [record.epoch for record in records] == [1, 2]
    images = retrained.samples("cfg_ema", 0.0)
    assert images.shape == (2, 20, 1, 28, 28)
    assert not torch.equal(images[1], retrained.samples("cfg", 0.0)[1])


def test_other_noise_is_measured_at_the_weight_of_table_1_alone():
    again = retrained.records("cfg_ema", seed=1)
    assert [(r.epoch, r.evaluation.guidance_weight, r.evaluation.seed) for r in again] == [(1, 1.0, 1), (2, 1.0, 1)]


def test_studies_measure_what_was_trained_and_look_up_nothing_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "nothing shipped")
    settings = [Setting("cfg_ema", steps=2, n=100), Setting("cfg_ema", steps=2, n=100, guide=("cfg_ema", 1))]
    results = measured("s", settings, models=retrained, progress=False)
    network, schedule = retrained.load("cfg_ema"), retrained.schedule("cfg_ema")
    assert results[0] == evaluation.evaluate_model(network, schedule, 100, 0.0, "dpm_solver", 2)[0]
    assert measured("s", settings, models=retrained, progress=False) == results


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retrained.load("cgf"), "there is no model 'cgf'; did you mean cfg"),
        (lambda: retrained.load("cfg", 4), "kept no weights of epoch 4; it has [1, 2]"),
        (lambda: retrained.load("cfg", 2, 0.07), "leave the epoch out, it is 2"),
        (lambda: retrained.samples("cfg", 3.0), "guidance_weight is 3.0; it was not recorded for cfg"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, message: str):
    with refused([message]):
        call()
