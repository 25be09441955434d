"""Problem set 2's challenge pays for equal gaps on the right axis, and refuses what is no choice of timesteps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from planted import challenge_answer
from torch import Tensor

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course import challenges
from ddpm_lib.course.challenges import places
from ddpm_lib.sampler_steps import spaced_timesteps
from ddpm_lib.schedules import cosine_schedule

WHOLE_RANGE = ("start, end = -10.0, 4.5", "start, end = float(log_snr[-1]), float(log_snr[0])")


def karras(alpha_bars: Tensor, n: int) -> list[int]:
    """Equal gaps in sigma^(1/7) (Karras et al. 2022, eq. 5)."""
    roots = ((1 - alpha_bars) / alpha_bars) ** (1 / 14)
    chosen: list[int] = []
    for i, x in enumerate(torch.linspace(float(roots[-1]), float(roots[0]), n)):
        before = chosen[-1] if chosen else len(roots)
        chosen.append(max(min(int((roots - x).abs().argmin()), before - 1), n - 1 - i))
    return chosen


@pytest.mark.parametrize(
    ("points", "choose"),
    [
        pytest.param(4, challenge_answer("ps2"), id="log-SNR, where there is something to decide"),
        pytest.param(3, challenge_answer("ps2", WHOLE_RANGE), id="log-SNR, from end to end"),
        pytest.param(2, lambda bars, n: spaced_timesteps(len(bars), n, "quadratic"), id="quadratic"),
        pytest.param(1, karras, id="Karras et al."),
        pytest.param(1, lambda bars, n: spaced_timesteps(len(bars), n), id="equal in t"),
        pytest.param(0, lambda bars, n: list(range(n))[::-1], id="the cleanest"),
    ],
)
def test_five_places_pay_for_the_right_axis(points: int, choose: Callable[[Tensor, int], list[int]]):
    paid, said = challenges.five_places(choose)
    assert (paid, said.endswith(f": {points} of 4 points")) == (points, True)


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (lambda bars, n: [999, 600, 300, 100], "report's schedule, n = 5: 4 timesteps came back, 5 were asked for"),
        (lambda bars, n: [0, 10, 100, 300, 999], "after t = 0 comes t = 10; from noise to picture the timesteps fall"),
        (lambda bars, n: [1000, 600, 300, 100, 0], "timestep 1000 is outside 0 … 999: t counts from 0"),
        (lambda bars, n: [999.5, 600, 300, 100, 0], "places must return a list of whole numbers"),
        (lambda bars, n: None, "places must return a list of whole numbers"),
        (lambda bars, n: [999, 600, 300, 100, 0], "cosine schedule, n = 10: 5 timesteps came back, 10 were asked for"),
        (lambda bars, n: [999 - 99 * i for i in range(n)], "100 steps, n = 20: timestep 999 is outside 0 … 99"),
    ],
)
def test_what_is_no_choice_of_timesteps_is_told_why(choose: Callable[[Tensor, int], list[int]], says: str):
    with pytest.raises(WrongAnswer, match=says):
        challenges.five_places(choose)


def test_two_places_on_one_timestep_are_found_on_the_cosine_schedule():
    log_snr_alone = challenge_answer("ps2", WHOLE_RANGE, ("t = min(t, visits[-1] - 1)", "pass"))
    with pytest.raises(WrongAnswer, match=r"on the cosine schedule, n = 10: after t = 99. comes t = 99."):
        challenges.five_places(log_snr_alone)


def test_timesteps_may_be_a_tensor_and_the_schedule_may_be_written_to(monkeypatch):
    monkeypatch.setattr(places, "measured", lambda draw, thresholds, seed: (0, "not measured"))

    def choose(alpha_bars: Tensor, n: int) -> Tensor:
        alpha_bars.zero_()
        return torch.arange(n).flip(0)

    assert challenges.five_places(choose) == (0, "not measured")


@pytest.mark.parametrize("n", [2, 5, 1000])
def test_the_reference_chooses_on_any_schedule(n: int):
    chosen = challenge_answer("ps2")(cosine_schedule().alpha_bars, n)
    assert len(set(chosen)) == n
    assert chosen == sorted(chosen, reverse=True)
    assert 0 <= chosen[-1] <= chosen[0] <= 999


def test_a_challenge_not_taken_costs_no_time(monkeypatch):
    def blank(alpha_bars, n):
        raise NotImplementedError

    monkeypatch.delattr(places, "trained_network")
    with pytest.raises(NotImplementedError):
        challenges.five_places(blank)
