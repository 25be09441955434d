"""Guidance: the report's formula and its identities, intervals of noise levels, weaker guides, dropped labels."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import refused
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_lib.errors import InputError
from ddpm_lib.guidance import Autoguided, drop_labels, guided_eps, weight_in_interval
from ddpm_lib.samplers import SAMPLERS, sample
from ddpm_lib.schedules import cosine_schedule, linear_schedule
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


# --- in an interval of noise levels


class Counts(nn.Module):
    """A network's stand-in that says how many pictures it computed at each call."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        self.rows.append(len(x))
        label = torch.zeros(len(x)) if y is None else 1.0 + y
        return self.factor * x + (label if drop is None else label * ~drop).reshape(-1, 1, 1, 1)


SHORT = linear_schedule(12, 0.001, 0.6)


def test_guidance_is_on_exactly_between_the_two_noise_levels():
    for schedule in (linear_schedule(), cosine_schedule()):
        weight = weight_in_interval(3.0, schedule, 0.3, 5.0)
        for t in range(schedule.T):
            sigma = math.exp(-float(schedule.log_snr[t]) / 2)
            assert weight(t) == (3.0 if 0.3 < sigma <= 5.0 else 0.0)


def test_the_upper_end_belongs_to_the_interval_and_the_lower_one_does_not():
    levels = SHORT.noise_levels.tolist()
    weight = weight_in_interval(3.0, SHORT, levels[4], levels[7])
    assert [t for t in range(12) if weight(t)] == [5, 6, 7]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("w", [2.0, torch.tensor([1.0, 2.0])])
def test_outside_the_interval_only_the_conditional_half_is_computed(sampler, w):
    model, guided = Counts(), range(3, 8)
    levels = SHORT.noise_levels.tolist()
    weight = weight_in_interval(w, SHORT, levels[guided[0] - 1], levels[guided[-1]])
    sample(model, SHORT, y=Y[:2], guidance_weight=weight, sampler=sampler, steps=12)
    assert model.rows == [4 if t in guided else 2 for t in range(11, -1, -1)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_step_is_guided_by_its_own_weight(sampler):
    x_T, model = X[:2], Counts()
    x = x_T
    for step in SAMPLERS[sampler](model, x_T, SHORT, Y[:2], lambda t: t / 4, steps=12, generator=torch.Generator()):
        assert_close(step.eps, guided_eps(model, x, torch.full((2,), step.t), Y[:2], step.t / 4))
        x = step.x


def test_an_interval_of_all_noise_levels_is_plain_guidance():
    everywhere, plain = (
        sample(Counts(), SHORT, y=Y, guidance_weight=w, steps=12, generator=torch.Generator().manual_seed(0))
        for w in (weight_in_interval(2.0, SHORT), 2.0)
    )
    assert torch.equal(everywhere, plain)


# --- a weaker network guides


@pytest.mark.parametrize("w", [-2.0, -1.0, -0.3, 0.0, 0.5, 2.0, torch.tensor([0.0, -1.0, 2.5])])
@pytest.mark.parametrize("y", [Y, None])
def test_autoguidance_goes_away_from_the_guide(w, y):
    model, guide = Counts(0.5), Counts(0.2)
    weights = torch.as_tensor(w).reshape(-1, 1, 1, 1)
    expected = (1 + weights) * model(X, T, y) - weights * guide(X, T, y)
    assert_close(guided_eps(Autoguided(model, guide), X, T, y, w), expected)


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 4.0])
def test_a_model_that_guides_itself_is_the_conditional_model(unet, w):
    assert_close(guided_eps(Autoguided(unet, unet), X, T, Y, w), unet(X, T, Y), **ROUNDING)


def test_autoguidance_computes_each_network_once_and_only_if_it_counts():
    for w, of_model, of_guide in ((0.0, [3], []), (-1.0, [], [3]), (2.0, [3], [3])):
        model, guide = Counts(), Counts()
        guided_eps(Autoguided(model, guide), X, T, Y, w)
        assert (model.rows, guide.rows) == (of_model, of_guide)


def test_autoguidance_by_a_real_network(unet):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        guide = UNet().requires_grad_(False)
    expected = 3 * unet(X, T, Y) - 2 * guide(X, T, Y)
    assert_close(guided_eps(Autoguided(unet, guide), X, T, Y, 2.0), expected, **ROUNDING)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_an_autoguided_model_also_in_an_interval(sampler):
    model, guide = Counts(0.5), Counts(0.2)
    weight = weight_in_interval(2.0, SHORT, 0.0, float(SHORT.noise_levels[5]))
    sample(Autoguided(model, guide), SHORT, 2, guidance_weight=weight, sampler=sampler, steps=12)
    assert (model.rows, guide.rows) == ([2] * 12, [2] * 6)


def test_an_autoguided_model_has_its_models_number_of_labels(unet):
    assert Autoguided(unet, UNet(num_classes=None)).num_classes == 10
    assert Autoguided(UNet(num_classes=None), unet).num_classes is None


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
    "interval turned round": (lambda: weight_in_interval(1.0, SHORT, 5.0, 0.3), ["(5.0, 0.3]", "0 <= low < high"]),
    "interval NaN": (lambda: weight_in_interval(1.0, SHORT, math.nan, 1.0), ["(nan, 1.0]", "0 <= low < high"]),
    "interval above": (lambda: weight_in_interval(1.0, SHORT, 1e3, 1e4), ["(1000.0, 10000.0]", "between 0.0316 and"]),
    "probability 1.5": (lambda: drop_labels(4, 1.5), ["drop probability is 1.5", "[0, 1]"]),
    "probability -0.1": (lambda: drop_labels(4, -0.1), ["drop probability is -0.1", "[0, 1]"]),
    "probability NaN": (lambda: drop_labels(4, math.nan), ["drop probability is nan", "[0, 1]"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()


def test_labels_for_an_unconditional_network_are_refused():
    model = UNet(num_classes=None)
    for w in (-1.0, 0.0, 2.0):
        with pytest.raises(InputError, match="this network is unconditional"):
            guided_eps(model, X, T, Y, w)
