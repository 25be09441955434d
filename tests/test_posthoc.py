"""Averages made after the training: against tracked ones, the paper's closed form, and an independent solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import refused, tiny_config, tiny_data
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_lib.ema import EMA, PowerEMA, gamma_from_sigma_rel
from ddpm_lib.errors import InputError
from ddpm_lib.posthoc import (
    Snapshot,
    ema_profile,
    posthoc_coefficients,
    posthoc_weights,
    power_profile,
    power_snapshots,
)
from ddpm_lib.run_files import load_model
from ddpm_lib.runs import fit

EPOCH = 100  # steps; a training of twenty epochs
OFTEN = [(width, EPOCH * epoch) for epoch in range(1, 21) for width in (0.05, 0.10)]
SELDOM = [(width, EPOCH * epoch) for epoch in (5, 10, 15, 20) for width in (0.05, 0.10)]


def numbers(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


class Weights(nn.Module):
    """Weights that wander: from a random start, at first fast and then ever slower, with noise on top."""

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.goal = self._noise(size)
        self.weight = nn.Parameter(self._noise(size))

    def _noise(self, size: int) -> Tensor:
        return torch.randn(size, generator=self.generator, dtype=torch.float64)

    @torch.no_grad()
    def step(self) -> None:
        self.weight += 0.005 * (self.goal - self.weight) + 0.02 * self._noise(len(self.weight))
        self.goal += 0.01 * self._noise(len(self.goal))


def trained(averages: dict[object, EMA], model: Weights, steps: int, every: int) -> dict[tuple, dict[str, Tensor]]:
    """Trains with all averages updated; the weights of each, by (its name, step), every so many steps."""
    kept = {}
    for step in range(1, steps + 1):
        model.step()
        for name, average in averages.items():
            average.update(model, step)
            if step % every == 0:
                kept[name, step] = {key: value.clone() for key, value in average.model.state_dict().items()}
    return kept


def relative_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return float((ours["weight"] - theirs["weight"]).norm() / theirs["weight"].norm())


# --- profiles


@pytest.mark.parametrize(
    ("average", "profile"),
    [
        (lambda model: PowerEMA(model, 0.05), lambda step: power_profile(0.05, step)),
        (lambda model: PowerEMA(model, 0.25), lambda step: power_profile(0.25, step)),
        (lambda model: EMA(model, 0.9, start=10), lambda step: ema_profile(0.9, 10, step)),
        (lambda model: EMA(model, 0.9, start=1), lambda step: ema_profile(0.9, 1, step)),
        (lambda model: EMA(model, 0.0, start=10), lambda step: ema_profile(0.0, 10, step)),
        (lambda model: EMA(model, 1.0, start=10), lambda step: ema_profile(1.0, 10, step)),
    ],
)
def test_the_average_is_the_sum_of_the_weights_times_its_profile(average, profile):
    model = Weights()
    ema, seen = average(model), []
    for step in range(1, 31):
        model.step()
        ema.update(model, step)
        seen.append(model.weight.detach().clone())
        assert_close(ema.model.weight.detach(), numbers(profile(step)) @ torch.stack(seen))
        assert_close(float(profile(step).sum()), 1.0)


# --- coefficients


def inner_product(a: Snapshot, b: Snapshot) -> float:
    """Of two power functions, (gamma + 1) t^gamma / T^(gamma + 1) up to T and 0 after (Karras et al., appendix C)."""
    (gamma, until), (gamma_b, until_b) = ((gamma_from_sigma_rel(sigma_rel), step) for sigma_rel, step in (a, b))
    later = gamma if until > until_b else gamma_b  # in ratios: t^gamma alone would leave the range of floats
    ratio = min(until, until_b) / max(until, until_b)
    return (gamma + 1) * (gamma_b + 1) / (gamma + gamma_b + 1) * ratio**later / max(until, until_b)


PAIRS = [((0.05, 2000), (0.05, 2000)), ((0.05, 2000), (0.10, 1500)), ((0.20, 500), (0.07, 2000))]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_closed_inner_product_is_the_integral(a, b):
    t = (np.arange(2_000_000) + 0.5) / 1000  # 0 … 2000
    product = np.ones_like(t)
    for sigma_rel, step in (a, b):
        gamma = gamma_from_sigma_rel(sigma_rel)
        product *= np.where(t <= step, (gamma + 1) / step * (t / step) ** gamma, 0)
    assert_close(inner_product(a, b), float(product.sum() / 1000), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_profiles_have_the_closed_inner_products(a, b):
    p, q = power_profile(*a), power_profile(*b)
    both = min(len(p), len(q))
    assert_close(float(p[:both] @ q[:both]), inner_product(a, b), rtol=1e-3, atol=0)


def closed_form(snapshots: list[Snapshot], target: Snapshot, sum_to_1: bool) -> np.ndarray:
    """The normal equations on closed inner products, with a Lagrange multiplier for the sum."""
    gram = np.array([[inner_product(a, b) for b in snapshots] for a in snapshots])
    right = np.array([inner_product(a, target) for a in snapshots])
    if not sum_to_1:
        return np.linalg.solve(gram, right)
    ones = np.full((len(snapshots), 1), gram.mean())
    return np.linalg.solve(np.block([[gram, ones], [ones.T, np.zeros((1, 1))]]), np.append(right, gram.mean()))[:-1]


@pytest.mark.parametrize("snapshots", [OFTEN, SELDOM])
@pytest.mark.parametrize("target", [(0.03, 2000), (0.07, 2000), (0.13, 1000), (0.20, 1500), (0.10, 1750)])
def test_coefficients_agree_with_an_independent_solution(snapshots, target):
    coefficients = posthoc_coefficients(snapshots, power_profile(*target))
    assert_close(numbers(coefficients), numbers(closed_form(snapshots, target, sum_to_1=True)), rtol=0, atol=1e-3)


def test_with_many_snapshots_the_papers_own_coefficients_are_nearly_the_same():
    ours = posthoc_coefficients(OFTEN, power_profile(0.07, 2000))
    papers = closed_form(OFTEN, (0.07, 2000), sum_to_1=False)
    assert_close(numbers(ours), numbers(papers), rtol=0, atol=1e-4)
    assert abs(papers.sum() - 1) < 1e-4


def test_with_few_snapshots_the_papers_own_coefficients_make_all_weights_larger_or_smaller():
    assert closed_form(SELDOM, (0.07, 2000), sum_to_1=False).sum() > 1.01
    assert closed_form(SELDOM, (0.15, 2000), sum_to_1=False).sum() < 0.97


@pytest.mark.parametrize("snapshots", [OFTEN, SELDOM, OFTEN[:1]])
@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.25])
def test_coefficients_sum_to_one(snapshots, sigma_rel):
    last = snapshots[-1][1]
    assert_close(float(posthoc_coefficients(snapshots, power_profile(sigma_rel, last)).sum()), 1.0)


@pytest.mark.parametrize("snapshots", [OFTEN, SELDOM])
def test_a_snapshot_that_is_there_is_taken_as_it_is(snapshots):
    for index, snapshot in enumerate(snapshots):
        coefficients = posthoc_coefficients(snapshots, power_profile(*snapshot))
        assert_close(numbers(coefficients), numbers(np.eye(len(snapshots))[index]), rtol=0, atol=1e-9)


def test_no_other_combination_that_sums_to_one_comes_nearer():
    snapshots, target, rng = SELDOM, power_profile(0.07, 2000), np.random.default_rng(0)
    profiles = np.stack([np.pad(power_profile(*one), (0, 2000 - one[1])) for one in snapshots], axis=1)
    best = posthoc_coefficients(snapshots, target)
    for _ in range(100):
        change = rng.normal(size=len(best))
        other = best + 0.01 * (change - change.mean())
        assert np.linalg.norm(profiles @ other - target) > np.linalg.norm(profiles @ best - target)


# --- weights


@pytest.fixture(scope="module")
def kept() -> dict[tuple, dict[str, Tensor]]:
    """Twenty epochs, with the averages that training keeps, and those to compare with."""
    model = Weights()
    averages = {width: PowerEMA(model, width) for width in (0.05, 0.10, 0.07, 0.13, 0.20)}
    return trained(averages | {"ema": EMA(model, 0.99, start=400)}, model, 20 * EPOCH, EPOCH)


def synthesised(kept: dict, snapshots: list[Snapshot], target: np.ndarray) -> dict[str, Tensor]:
    return posthoc_weights({snapshot: kept[snapshot] for snapshot in snapshots}, target)


@pytest.mark.parametrize("snapshot", [(0.05, 2000), (0.10, 1500)])
def test_an_average_whose_snapshot_is_there_is_that_snapshot(kept, snapshot):
    assert relative_error(synthesised(kept, OFTEN, power_profile(*snapshot)), kept[snapshot]) < 1e-9


@pytest.mark.parametrize(
    ("width", "epoch", "error", "error_of_few"),
    [(0.07, 20, 1e-4, 5e-3), (0.13, 20, 1e-4, 5e-3), (0.07, 10, 5e-4, 1e-2), (0.13, 10, 5e-4, 2e-2)],
)
def test_a_synthesised_average_is_nearly_the_tracked_one(kept, width, epoch, error, error_of_few):
    target, tracked = power_profile(width, epoch * EPOCH), kept[width, epoch * EPOCH]
    assert relative_error(synthesised(kept, OFTEN, target), tracked) < error
    assert relative_error(synthesised(kept, SELDOM, target), tracked) < error_of_few
    # The snapshots themselves are much further away: it was worth the sum.
    nearest = min(relative_error(kept[other, epoch * EPOCH], tracked) for other in (0.05, 0.10))
    assert nearest > max(30 * error, error_of_few)


def test_an_exponential_average_can_be_synthesised_too(kept):
    target, tracked = ema_profile(0.99, 400, 2000), kept["ema", 2000]
    assert relative_error(synthesised(kept, OFTEN, target), tracked) < 1e-3


def test_half_precision_of_the_snapshots_costs_no_more_than_its_own_rounding(kept):
    halved = {key: {"weight": weights["weight"].half()} for key, weights in kept.items()}
    for snapshots in (OFTEN, SELDOM):
        for width in (0.07, 0.13):
            target = power_profile(width, 2000)
            ours, exact = synthesised(halved, snapshots, target), synthesised(kept, snapshots, target)
            assert ours["weight"].dtype == torch.float32
            assert relative_error(ours, exact) < 3e-4  # one rounding: at most 2^-11, 4.9e-4, 2e-4 on average


def test_weights_of_a_run(tmp_path):
    config = tiny_config(power_emas=True, epochs=2.0)
    snapshots = power_snapshots(fit(config, tiny_data(), tmp_path, keep=range(1, 9), progress=False))
    assert list(snapshots) == [(width, step) for step in range(1, 9) for width in (0.05, 0.10)]
    kept = load_model(tmp_path, 6, "power_0.10").state_dict()
    for name, value in posthoc_weights(snapshots, power_profile(0.10, 6)).items():
        assert value.dtype == torch.float32
        assert_close(value, kept[name], rtol=1e-6, atol=1e-7)
    # With a snapshot after every step any average is at hand; only the weights' float32 rounds.
    ema = load_model(tmp_path, 8, "ema").state_dict()
    for name, value in posthoc_weights(snapshots, ema_profile(config.ema_beta, config.ema_start, 8)).items():
        assert_close(value, ema[name], rtol=1e-5, atol=1e-5)


ONE = {"weight": torch.zeros(2)}
OTHER = {"bias": torch.zeros(2)}
BAD = {
    "step 0": (lambda: power_profile(0.05, 0), ["step is 0", "step 1"]),
    "step 0, exponential": (lambda: ema_profile(0.9, 1, 0), ["step is 0", "step 1"]),
    "sigma_rel 0.5": (lambda: power_profile(0.5, 10), ["sigma_rel is 0.5", "(0, 0.28]"]),
    "beta 1.5": (lambda: ema_profile(1.5, 1, 10), ["beta is 1.5", "[0, 1]"]),
    "beta NaN": (lambda: ema_profile(float("nan"), 1, 10), ["beta is nan", "[0, 1]"]),
    "start 0": (lambda: ema_profile(0.9, 0, 10), ["start 0", "1 or later"]),
    "no snapshots": (lambda: posthoc_coefficients([], power_profile(0.05, 10)), ["step 10", "snapshots to 0"]),
    "too late": (lambda: posthoc_coefficients([(0.05, 9)], power_profile(0.05, 10)), ["step 10", "snapshots to 9"]),
    "other names": (
        lambda: posthoc_weights({(0.05, 9): ONE, (0.1, 9): OTHER}, power_profile(0.05, 9)),
        ["different names", "one training"],
    ),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()


def test_a_run_without_power_averages_is_refused(tmp_path):
    fit(tiny_config(), tiny_data(), tmp_path, progress=False)
    with pytest.raises(InputError, match=r"no weights 'power_0\.05'"):
        power_snapshots(tmp_path)
