"""Records: every kept set of weights measured once, nothing lost when stopped, and shipped as it was measured."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
import yaml
from tiny import tiny_config, tiny_data

from ddpm_lib import evaluation, pretrained, records, shipping
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.errors import CheckpointError, InputError
from ddpm_lib.records import from_strip, mean_losses, read_records, record_run, step_of_epoch, to_strip
from ddpm_lib.run_files import load_model, read_log
from ddpm_lib.runs import fit
from ddpm_lib.schedules import linear_schedule

W = (0.0, 1.0)
quick_evaluation = partial(evaluation.evaluate_model, steps=2)


@pytest.fixture(scope="module", autouse=True)
def few_real_images():
    """A quick judge of quick samples: what it says is compared with itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "REFERENCE", 200)
        patch.setattr(records, "evaluate_model", quick_evaluation)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of two steps, every epoch kept and recorded."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(T=20, conditional=True, epochs=2.0, batch_size=8)
    fit(config, tiny_data(16), folder, progress=False)
    record_run(folder, guidance_weights=W, n=100, progress=False)
    return folder


def test_every_kept_step_is_recorded_raw_and_averaged_at_each_guidance_weight(run):
    found = [(r.step, r.epoch, r.weights, r.evaluation.guidance_weight) for r in read_records(run / "records.jsonl")]
    assert found == [(step, step / 2, weights, w) for step in (2, 4) for weights in ("ema", "raw") for w in W]


def test_a_record_is_what_the_evaluator_says_of_these_weights(run):
    record = read_records(run / "records.jsonl")[-1]
    measured, images = quick_evaluation(load_model(run, 4, "raw"), linear_schedule(20), 100, 1.0)
    assert record.evaluation == measured
    kept = from_strip(run / "samples" / "step_000004_raw_w1.png")
    assert float((kept - images[:20].clamp(-1, 1)).abs().max()) <= 1.01 / 255


def test_the_loss_is_the_mean_since_the_weights_kept_before(run):
    log = read_log(run)
    assert mean_losses(run)[4] == (2.0, pytest.approx((log[2].loss + log[3].loss) / 2))


def test_what_is_recorded_is_not_measured_again_and_what_is_missing_is(run, monkeypatch):
    before = (run / "records.jsonl").read_text()
    monkeypatch.setattr(records, "evaluate_model", None)  # calling it would fail
    record_run(run, guidance_weights=W, n=100, progress=False)
    assert (run / "records.jsonl").read_text() == before

    monkeypatch.undo()
    (run / "records.jsonl").write_text("".join(before.splitlines(keepends=True)[:-1]))  # stopped before the last one
    record_run(run, guidance_weights=W, n=100, progress=False)
    assert (run / "records.jsonl").read_text() == before


def test_other_noise_is_recorded_in_a_file_of_its_own_and_keeps_no_pictures(run, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".jsonl", ".png")}
    (record, *_) = record_run(run, epochs=[2], guidance_weights=(0.0,), n=100, progress=False, seed=1)
    measured, _ = quick_evaluation(load_model(run, 4, record.weights), linear_schedule(20), 100, 0.0, seed=1)
    assert record.evaluation == measured
    assert measured.fid != next(r for r in read_records(run / "records.jsonl") if r.step == 4).evaluation.fid
    assert {path: path.read_bytes() for path in run.rglob("*") if path in before} == before
    assert len(list((run / "samples").iterdir())) == sum(path.suffix == ".png" for path in before)

    shipping.ship(run, "cfg", commit="abc", folder=tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    assert [(r.step, r.evaluation.seed) for r in pretrained.records("cfg", seed=1)] == [(4, 1)]
    (run / "records_seed_1.jsonl").unlink()


def test_an_epoch_that_was_not_kept_is_refused(run):
    with pytest.raises(InputError, match=r"no weights of epoch 7; it has \[1, 2\]"):
        record_run(run, epochs=[7], progress=False)
    assert step_of_epoch(run, 2) == 4


def test_damaged_records_are_refused(run, tmp_path):
    path = tmp_path / "records.jsonl"
    with pytest.raises(CheckpointError, match="ddpm record RUN"):
        read_records(path)
    whole = (run / "records.jsonl").read_text()
    for damaged in (whole[:-20], whole.replace('"fid"', '"fad"')):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_records(path)


def test_a_strip_gives_its_pictures_back(tmp_path):
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tmp_path / "strip.png").write_bytes(to_strip(images))
    assert float((from_strip(tmp_path / "strip.png") - images).abs().max()) <= 1.01 / 255


def test_a_shipped_run_loads_as_it_was_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "EPOCHS", (1,))
    shipping.ship(run, "cfg", commit="abc", folder=tmp_path)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.load.cache_clear()
    assert pretrained.epochs("cfg_ema") == [1, 2]
    for name, weights in (("cfg", "raw"), ("cfg_ema", "ema")):
        ours, theirs = load_model(run, 2, weights).state_dict(), pretrained.load(name, 1).state_dict()
        for key, value in ours.items():
            torch.testing.assert_close(theirs[key], value, rtol=2**-10, atol=1e-6)
        assert [r.step for r in pretrained.records(name)] == [2, 2, 4, 4]
        assert pretrained.samples(name, 1.0).shape == (2, 20, 1, 28, 28)
        shown = from_strip(run / "samples" / f"step_000004_{weights}_w1.png")
        assert torch.equal(pretrained.samples(name, 1.0)[1], shown)
    assert pretrained.schedule("cfg").T == 20
    assert load_tensors(tmp_path / "cfg_ema_epoch_02.safetensors")[1]["commit"] == "abc"
    with pytest.raises(InputError, match=r"kept for \[0.0, 1.0\]"):
        pretrained.samples("cfg", 3.0)
    pretrained.load.cache_clear()


def test_the_card_tells_recipe_code_machine_quality_and_use(run):
    found = read_records(run / "records.jsonl")
    text = shipping.card(run, "cfg", found, "abc")
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert recipe == json.loads(json.dumps(load_tensors(run / "weights" / "step_000004.safetensors")[1]["config"]))
    last = found[-1].evaluation
    assert f"| 2 | raw | 1 | {last.fid.value:.2f} [{last.fid.low:.2f}, {last.fid.high:.2f}] |" in text
    for words in ("commit\n  abc", "minutes", "real\n  test images", "cfg_records.jsonl", shipping.USES["cfg"]):
        assert words in text


def test_an_unknown_recipe_is_not_shipped(run, tmp_path):
    with pytest.raises(InputError, match="did you mean cfg"):
        shipping.ship(run, "cgf", folder=tmp_path)
