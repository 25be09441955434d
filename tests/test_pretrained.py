"""What is shipped to make averages from: a tiny run's snapshots stand for the real ones."""

from __future__ import annotations

import pytest
import torch
from stopping import assert_same_bits, damage
from tiny import refused, tiny_config, tiny_data

from ddpm_lib import pretrained, shipping
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.errors import CheckpointError
from ddpm_lib.posthoc import posthoc_weights, power_profile, power_snapshots
from ddpm_lib.run_files import load_model
from ddpm_lib.runs import fit
from ddpm_lib.unet import UNet

CHOSEN = ((0.10, 1), (0.05, 3), (0.10, 3))  # (sigma_rel, epoch)
FEW = {(0.10, 2), (0.05, 6), (0.10, 6)}  # an epoch has two steps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three epochs of two steps."""
    config = tiny_config(T=20, conditional=True, epochs=3.0, batch_size=8, power_emas=True)
    return fit(config, tiny_data(16), tmp_path_factory.mktemp("run"), progress=False)


@pytest.fixture
def shipped(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "SNAPSHOTS", {"cfg": CHOSEN})
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.load.cache_clear()
    yield shipping.ship_snapshots(run, "cfg", "abc", tmp_path)
    pretrained.load.cache_clear()


def test_the_chosen_snapshots_are_shipped_in_half_precision(run, shipped):
    kept, ours = power_snapshots(run), pretrained.snapshots("cfg_ema")
    assert ours.keys() == FEW
    for key, weights in ours.items():
        assert_same_bits(weights, {name: value.half() for name, value in kept[key].items()})
    assert load_tensors(shipped[0])[1]["commit"] == "abc"


def test_a_width_that_was_tracked_is_loaded_as_it_was(run, shipped):
    for width in (0.05, 0.10):
        tracked = load_model(run, 6, f"power_{width:.2f}").state_dict()
        for name, value in pretrained.load("cfg", sigma_rel=width).state_dict().items():
            torch.testing.assert_close(value, tracked[name], rtol=2**-10, atol=1e-6)


def test_another_width_is_rebuilt_from_the_snapshots(shipped):
    rebuilt = pretrained.load("cfg", sigma_rel=0.07)
    assert isinstance(rebuilt, UNet)
    assert not any(parameter.requires_grad for parameter in rebuilt.parameters())
    assert_same_bits(rebuilt.state_dict(), posthoc_weights(pretrained.snapshots("cfg"), power_profile(0.07, 6)))
    assert rebuilt is pretrained.load("cfg", sigma_rel=0.07)


def test_what_few_snapshots_cost_is_zero_if_they_are_all_and_in_the_card_if_not(run, shipped):
    kept = power_snapshots(run)
    assert set(shipping.rebuilding_errors(kept, kept).values()) == {0.0}
    few = {key: kept[key] for key in FEW}
    errors = shipping.rebuilding_errors(few, kept)
    assert errors[0.05] == errors[0.10] == pytest.approx(0, abs=1e-6)
    assert errors[0.20] > 1e-5
    assert "rebuilt from these 3 and\n  from all 6" in shipped[1]


def test_what_gives_no_average_is_refused(shipped):
    with refused(["leave the epoch out", "20"]):
        pretrained.load("cfg", epoch=20, sigma_rel=0.07)
    with refused(["basic has no snapshots"]):
        pretrained.load("basic", sigma_rel=0.07)
    with refused(["sigma_rel is 0.5"]):
        pretrained.load("cfg", sigma_rel=0.5)
    damage(shipped[0])
    with refused(["does not match its own hash"], CheckpointError):
        pretrained.snapshots("cfg")
