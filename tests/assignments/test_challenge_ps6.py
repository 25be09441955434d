"""Problem set 6's challenge pays for a better sum of weights, and refuses what is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import challenge_answer

from ddpm_lib import pretrained
from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course import challenges
from ddpm_lib.course.challenges import mixture

SOLUTION = '{("power", 12): 1.4, ("raw", 10): -0.4}'


@pytest.mark.parametrize(
    ("points", "instead"),
    [
        pytest.param(4, SOLUTION, id="a late average, less of the jitter"),
        pytest.param(3, '{("power", 12): 1}', id="the latest average"),
        pytest.param(2, "dict.fromkeys(challenges.mixture.LEFT, 1 / 6)", id="the mean of all"),
        pytest.param(1, '{("raw", 5): 0.5, ("raw", 10): 0.5}', id="the mean of the raw weights"),
        pytest.param(0, '{("raw", 10): 1}', id="the last raw weights"),
    ],
)
def test_twelve_epochs_pay_for_a_better_sum(points: int, instead: str):
    paid, said = challenges.twelve_epochs(challenge_answer("ps6", (SOLUTION, instead))())
    assert (paid, said.endswith(f": {points} of 4 points")) == (points, True)


@pytest.mark.parametrize(
    ("coefficients", "says"),
    [
        ({("raw", 20): 1}, r"the training left no \('raw', 20\); there are \('raw', 5\), .*\('power', 12\)"),
        ({("raw", 10): 0.5, ("ema", 10): 0.4}, "the coefficients sum to 0.9; an average's sum to 1"),
        ({}, "the coefficients sum to 0;"),
        ({("raw", 10): float("nan")}, r"the coefficient of \('raw', 10\) is nan"),
        ({("raw", 10): "all"}, "dict of numbers"),
        ([0.5, 0.5], "dict of numbers"),
        (None, "dict of numbers"),
    ],
)
def test_what_is_no_sum_is_told_why(coefficients: Any, says: str):
    with pytest.raises(WrongAnswer, match=says):
        challenges.twelve_epochs(coefficients)


@pytest.mark.parametrize(("weights", "epoch"), mixture.LEFT)
def test_the_sets_are_those_shipped(weights: str, epoch: int):
    if weights == "power":
        shipped = pretrained.snapshots("cfg")[0.1, epoch * 468]
    else:
        shipped = pretrained.load("cfg" if weights == "raw" else "cfg_ema", epoch).state_dict()
    ours = mixture.left_weights(weights, epoch)
    assert ours.keys() == shipped.keys()
    assert all(torch.equal(ours[name].float(), shipped[name].float()) for name in ours)


def test_the_network_draws_with_the_sum_and_the_trained_one_is_left_alone(monkeypatch):
    drawn = {}

    class Kept(mixture.Visited):
        def __init__(self, network, *arguments):
            super().__init__(network, *arguments)
            drawn.update(network.state_dict())

    monkeypatch.setattr(mixture, "Visited", Kept)
    monkeypatch.setattr(mixture, "measured", lambda draw, thresholds, seed: (0, "not measured"))
    trained = {name: value.clone() for name, value in mixture.trained_network().state_dict().items()}
    challenges.twelve_epochs({("raw", 10): 2, ("ema", 10): -1})
    raw, ema = pretrained.load("cfg", 10).state_dict(), pretrained.load("cfg_ema", 10).state_dict()
    for name, value in drawn.items():
        torch.testing.assert_close(value, 2 * raw[name] - ema[name])
    assert all(torch.equal(value, trained[name]) for name, value in mixture.trained_network().state_dict().items())


def test_what_is_no_sum_costs_no_time(monkeypatch):
    monkeypatch.delattr(mixture, "trained_network")
    with pytest.raises(WrongAnswer):
        challenges.twelve_epochs({("raw", 5): 0.5})
