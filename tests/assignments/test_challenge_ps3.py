"""Problem set 3's challenge pays for eight values that lie where a row's numbers are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import challenge_answer
from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course import challenges
from ddpm_lib.course.challenges import values
from ddpm_lib.course.challenges.measuring import trained_network


def evenly(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    step = (high - low) / 7
    return low + ((weight - low) / step).round().clamp(0, 7) * step


def a_range_for_each_row(weight: Tensor) -> Tensor:
    return evenly(weight, weight.amin(1, True), weight.amax(1, True))


def the_ends_cut(weight: Tensor) -> Tensor:
    """Equal distances still, in the part of each row's range that gives the smallest error."""
    low, high = weight.amin(1, True), weight.amax(1, True)
    tries = torch.stack([evenly(weight, part * low, part * high) for part in torch.linspace(0.3, 1, 30)])
    best = (tries - weight).square().sum(dim=2).argmin(dim=0)
    return tries[best, torch.arange(len(weight))]


NEVER_MOVED = ("range(20)", "range(0)")


@pytest.mark.parametrize(
    ("points", "few_values"),
    [
        pytest.param(4, challenge_answer("ps3"), id="Lloyd's algorithm in each row"),
        pytest.param(3, challenge_answer("ps3", NEVER_MOVED), id="places between equal distances and equal shares"),
        (2, the_ends_cut),
        (1, a_range_for_each_row),
        pytest.param(0, torch.zeros_like, id="no weights"),
    ],
)
def test_eight_values_pay_for_cut_ends_and_for_places_of_their_own(points: int, few_values: values.FewValues):
    paid, said = challenges.eight_values(few_values)
    assert (paid, said.endswith(f": {points} of 4 points")) == (points, True)


def test_every_weight_is_handed_over_by_output_channels_and_nothing_else_changes():
    seen: list[list[int]] = []

    def zeros(weight: Tensor) -> Tensor:
        seen.append(list(weight.shape))
        return torch.zeros_like(weight)

    network = trained_network()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    after = dict(values.rounded(network, zeros).named_parameters())
    handed = {name for name, weight in before.items() if weight.ndim > 1 and weight[0].numel() >= 32}
    assert seen == [[len(before[name]), before[name][0].numel()] for name in before if name in handed]
    assert sum(before[name].numel() for name in handed) > 0.99 * sum(weight.numel() for weight in before.values())
    for name, weight in after.items():
        assert torch.equal(weight, torch.zeros_like(weight) if name in handed else before[name])
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda weight: weight, "a row has 50 different values, at most 8 are allowed"),
        (lambda weight: weight.flatten(), r"of the shape of weight, \[4, 50\] here"),
        (lambda weight: None, "must return a tensor"),
        (lambda weight: weight / 0, "infinite or not a number"),
    ],
)
def test_what_is_no_rounded_weight_is_told_why(answer: Any, says: str):
    with pytest.raises(WrongAnswer, match=says):
        challenges.eight_values(answer)


def test_a_value_that_rounding_makes_two_counts_once():
    def twice(weight: Tensor) -> Tensor:
        eighths = evenly(weight, weight.min(), weight.max())
        return eighths * (1 + 1e-7 * (torch.arange(weight.shape[1]) % 2))

    values.rounded(torch.nn.Linear(40, 4), twice)


def test_a_challenge_not_taken_costs_no_time(monkeypatch):
    def blank(weight):
        raise NotImplementedError

    monkeypatch.delattr(values, "trained_network")
    with pytest.raises(NotImplementedError):
        challenges.eight_values(blank)
