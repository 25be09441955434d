"""Studies: a setting is measured once; other weights, another setting or `recompute` measure again."""

from __future__ import annotations

import shutil

import pytest
from tiny import tiny_config, tiny_data

from ddpm_lib import evaluation, pretrained, records, shipping, studies
from ddpm_lib.errors import CheckpointError, InputError
from ddpm_lib.runs import fit
from ddpm_lib.studies import Setting, measured

QUICK = Setting("cfg_ema", steps=2, n=100)


@pytest.fixture(scope="module", autouse=True)
def tiny_models(tmp_path_factory):
    """Two epochs of a tiny run stand for the shipped models; the judge compares with few real images."""
    run, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("pretrained")
    config = tiny_config(T=20, conditional=True, epochs=2.0, batch_size=8, power_emas=True)
    fit(config, tiny_data(16), run, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "REFERENCE", 200)
        patch.setattr(shipping, "EPOCHS", (1,))
        patch.setattr(shipping, "SNAPSHOTS", {"cfg": ((0.05, 2), (0.10, 2))})
        records.record_run(run, epochs=[2], guidance_weights=(0.0,), n=100, progress=False)
        shipping.ship(run, "cfg", commit="abc", folder=folder)
        patch.setattr(pretrained, "FOLDER", folder)
        pretrained.load.cache_clear()
        yield folder
    pretrained.load.cache_clear()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "cache_dir", lambda: tmp_path)


@pytest.fixture
def calls(monkeypatch):
    """The settings that are really measured."""
    seen = []
    original = studies.measure
    monkeypatch.setattr(studies, "measure", lambda setting, models: seen.append(setting) or original(setting))
    return seen


def test_a_setting_is_measured_once(calls):
    other = Setting("cfg_ema", steps=2, n=100, guidance_weight=1.0)
    first = measured("s", [QUICK, other, QUICK], progress=False)
    same = Setting("cfg_ema", steps=2, n=100, guidance_weight=1)  # a whole number, as one may write it
    assert measured("s", [same, QUICK], progress=False) == [first[1], first[0]]
    assert calls == [QUICK, other]


def test_shipped_results_count_unless_they_are_to_be_computed_anew(calls, tmp_path, tiny_models):
    (expected,) = measured("s", [QUICK], progress=False)
    shutil.move(tmp_path / "studies" / "s.jsonl", tiny_models / "study_s.jsonl")
    assert measured("s", [QUICK], progress=False) == [expected]
    assert len(calls) == 1
    assert measured("s", [QUICK], recompute=True, progress=False) == [expected]
    assert len(calls) == 2
    (tiny_models / "study_s.jsonl").unlink()


def test_results_of_other_weights_do_not_count(calls, monkeypatch):
    measured("s", [QUICK], progress=False)
    monkeypatch.setattr(pretrained, "fingerprint", lambda *_: "other")
    measured("s", [QUICK], progress=False)
    assert len(calls) == 2


def test_guidance_in_an_interval_and_by_a_weaker_model_change_the_samples():
    settings = [
        Setting("cfg_ema", guidance_weight=3.0, steps=2, n=100),
        Setting("cfg_ema", guidance_weight=3.0, noise_levels=(0.2, 1.0), steps=2, n=100),
        Setting("cfg_ema", guidance_weight=3.0, guide=("cfg_ema", 1), steps=2, n=100),
    ]
    assert len({evaluation.fid.value for evaluation in measured("s", settings, progress=False)}) == 3


def test_an_average_rebuilt_after_the_training_is_another_model(tiny_models):
    settings = [Setting("cfg", sigma_rel=width, steps=2, n=100) for width in (None, 0.05, 0.07)]
    before = {evaluation.fid.value for evaluation in measured("s", settings, progress=False)}
    assert len(before) == 3
    keys = [studies._key(setting, pretrained) for setting in settings]
    assert not any("null" in key for key in keys)  # so a new field leaves old results valid


def test_real_images_are_judged_like_samples():
    real, samples = measured("s", [Setting("real", n=100), QUICK], progress=False)
    assert real == evaluation.noise_floor(100)
    assert real.fid.value < samples.fid.value


def test_what_is_not_there_and_what_is_damaged_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean cfg_ema"):
        measured("s", [Setting("cfg_emma")], progress=False)
    (tmp_path / "studies").mkdir(exist_ok=True)
    (tmp_path / "studies" / "s.jsonl").write_text('{"key": 1')
    with pytest.raises(CheckpointError, match="is damaged"):
        measured("s", [QUICK], progress=False)
