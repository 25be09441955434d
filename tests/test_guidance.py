"""Guidance: the report's formula and its identities, one forward pass, labels dropped one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ddpm_lib.errors import InputError
from ddpm_lib.guidance import drop_labels, guided_eps
from ddpm_lib.unet import UNet


class Recorder:
    """A network's stand-in: keeps what it was asked, and answers with one number for each label and x."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        self.calls.append((x, t, y, drop))
        if y is None:
            return 0.5 * x
        drop = torch.zeros(len(x), dtype=torch.bool) if drop is None else drop
        with_label = 2 * x + 3 + y.reshape(-1, 1, 1, 1)
        return torch.where(drop.reshape(-1, 1, 1, 1), 0.5 * x, with_label)


X = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 500, 999])
Y = torch.tensor([1, 8, 1])
CONDITIONAL, UNCONDITIONAL = Recorder()(X, T, Y), Recorder()(X, T)
ROUNDING = {"rtol": 0, "atol": 5e-5}  # of a float32 network whose batches have different sizes


@pytest.fixture(scope="module")
def unet() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet().requires_grad_(False)


# --- the formula


@pytest.mark.parametrize("w", [-2.0, -1.0, -0.3, 0.0, 0.5, 1.0, 2.0, 7.5])
def test_the_reports_formula(w):
    assert_close(guided_eps(Recorder(), X, T, Y, w), (1 + w) * CONDITIONAL - w * UNCONDITIONAL)


def test_weight_zero_is_conditional(unet):
    assert torch.equal(guided_eps(unet, X, T, Y, 0.0), unet(X, T, Y))
    assert torch.equal(guided_eps(unet, X, T, Y), unet(X, T, Y))  # the default


def test_weight_minus_one_is_unconditional(unet):
    assert torch.equal(guided_eps(unet, X, T, Y, -1.0), unet(X, T))


def test_without_labels_it_is_the_unconditional_network(unet):
    assert torch.equal(guided_eps(unet, X, T), unet(X, T))


def test_the_prediction_is_linear_in_the_weight(unet):
    at = {w: guided_eps(unet, X, T, Y, w) for w in (-1.0, 0.0, 1.0, 3.0)}
    assert_close(at[1.0], 2 * at[0.0] - at[-1.0], **ROUNDING)
    assert_close(at[3.0], 4 * at[0.0] - 3 * at[-1.0], **ROUNDING)


def test_scale_convention_is_one_plus_w():
    # Elsewhere: unconditional + scale (conditional - unconditional), with scale 1 for "no guidance".
    for scale in (0.0, 1.0, 3.0, 7.5):
        theirs = UNCONDITIONAL + scale * (CONDITIONAL - UNCONDITIONAL)
        assert_close(guided_eps(Recorder(), X, T, Y, scale - 1), theirs)


def test_each_sample_may_have_its_own_weight(unet):
    weights = torch.tensor([0.0, -1.0, 2.5])
    together = guided_eps(unet, X, T, Y, weights)
    for i, w in enumerate(weights.tolist()):
        alone = guided_eps(unet, X[i : i + 1], T[i : i + 1], Y[i : i + 1], w)
        assert_close(together[i : i + 1], alone, **ROUNDING)


def test_a_weight_tensor_of_minus_one_is_exactly_unconditional():
    assert torch.equal(guided_eps(Recorder(), X, T, Y, torch.full((3,), -1.0)), UNCONDITIONAL)


# --- the forward pass


def test_one_forward_pass_serves_both():
    for w in (2.0, torch.tensor([0.5, 1.0, 2.0])):
        model = Recorder()
        guided_eps(model, X, T, Y, w)
        ((x, t, y, drop),) = model.calls  # exactly one call
        assert_close(x, torch.cat([X, X]))
        assert_close(t, torch.cat([T, T]))
        assert_close(y, torch.cat([Y, Y]))
        assert drop.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("y", "w"), [(Y, 0.0), (Y, -1.0), (None, 0.0), (Y, 0), (Y, torch.tensor(-1))])
def test_where_one_prediction_is_enough_only_one_is_computed(y, w):
    model = Recorder()
    guided_eps(model, X, T, y, w)
    ((x, *_),) = model.calls
    assert len(x) == 3


# --- dropping labels


def test_labels_are_dropped_per_sample():
    drop = drop_labels(100_000, 0.1, torch.Generator().manual_seed(0))
    assert drop.shape == (100_000,)
    assert drop.dtype == torch.bool
    # Four standard deviations of a binomial count; a whole batch at once would give 0 or all.
    assert abs(int(drop.sum()) - 10_000) < 4 * math.sqrt(100_000 * 0.1 * 0.9)
    # And each by itself: neighbours are both dropped with probability 0.01.
    assert abs(int((drop[1:] & drop[:-1]).sum()) - 1_000) < 4 * math.sqrt(100_000 * 0.01)


@pytest.mark.parametrize(("probability", "dropped"), [(0.0, 0), (1.0, 1000), (0, 0), (1, 1000)])
def test_probability_zero_keeps_every_label_and_one_drops_every_label(probability, dropped):
    assert int(drop_labels(1000, probability).sum()) == dropped


def test_the_same_seed_drops_the_same_labels():
    first, second, other = (drop_labels(1000, 0.5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


BAD = {
    "w NaN": (lambda: guided_eps(Recorder(), X, T, Y, math.nan), ["guidance_weight is nan", "finite"]),
    "w infinite": (lambda: guided_eps(Recorder(), X, T, Y, math.inf), ["guidance_weight is inf", "finite"]),
    "one w of three NaN": (lambda: guided_eps(Recorder(), X, T, Y, torch.tensor([0, 1, math.nan])), ["nan", "finite"]),
    "w without labels": (lambda: guided_eps(Recorder(), X, T, None, 2.0), ["guidance_weight is 2.0", "no labels"]),
    "w -1 without labels": (lambda: guided_eps(Recorder(), X, T, None, -1.0), ["weight is -1.0", "no labels", "w = 0"]),
    "w for another batch": (lambda: guided_eps(Recorder(), X, T, Y, torch.ones(2)), ["shape [2]", "[3]"]),
    "w a matrix": (lambda: guided_eps(Recorder(), X, T, Y, torch.ones(3, 1)), ["shape [3, 1]", "[3]"]),
    "probability 1.5": (lambda: drop_labels(4, 1.5), ["drop probability is 1.5", "[0, 1]"]),
    "probability -0.1": (lambda: drop_labels(4, -0.1), ["drop probability is -0.1", "[0, 1]"]),
    "probability NaN": (lambda: drop_labels(4, math.nan), ["drop probability is nan", "[0, 1]"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_labels_for_an_unconditional_network_are_refused():
    model = UNet(num_classes=None)
    for w in (0.0, 2.0):
        with pytest.raises(InputError, match="this network is unconditional"):
            guided_eps(model, X, T, Y, w)
