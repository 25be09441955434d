"""Problem set 4's challenge pays for what a sampler of five looks can know, and refuses what is none."""

from __future__ import annotations

import pytest
import torch
from planted import challenge_answer

from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course import challenges
from ddpm_lib.course.challenges import sampler

EQUAL_GAPS = ("((n - i) / n) ** 2", "((n - i) / n)")
FIRST_ORDER = ("target = x_0 if x_0_before is None", "target = x_0 if True")
NOT_CUT = (".clamp(-1, 1)", "")


@pytest.mark.parametrize(
    ("points", "edits"),
    [
        pytest.param(4, (), id="second order, well placed"),
        pytest.param(3, (EQUAL_GAPS,), id="second order, equal gaps"),
        pytest.param(2, (FIRST_ORDER,), id="DDIM, well placed and cut"),
        pytest.param(1, (FIRST_ORDER, EQUAL_GAPS, NOT_CUT), id="plain DDIM"),
    ],
)
def test_five_looks_pay_for_order_placement_and_cutting(points: int, edits: tuple[tuple[str, str], ...]):
    paid, said = challenges.five_looks(challenge_answer("ps4", *edits))
    assert (paid, said.endswith(f": {points} of 4 points")) == (points, True)


def test_looking_more_than_five_times_is_refused():
    def greedy(model, x_T, alpha_bars):
        for _ in range(6):
            model(x_T, 999)
        return x_T

    with pytest.raises(WrongAnswer, match="more than 5 times"):
        challenges.five_looks(greedy)


def test_pictures_that_do_not_come_from_the_model_are_refused():
    with pytest.raises(WrongAnswer, match="must lead to that picture"):
        challenges.five_looks(lambda model, x_T, alpha_bars: torch.zeros_like(x_T))


def test_a_sampler_that_stops_before_the_clean_picture_is_told_so():
    early = challenge_answer("ps4", ("return x_0", "return x"))
    with pytest.raises(WrongAnswer, match="all the way"):
        challenges.five_looks(early)


def test_a_challenge_not_taken_costs_no_time(monkeypatch):
    def blank(model, x_T, alpha_bars):
        raise NotImplementedError

    monkeypatch.delattr(sampler, "trained_network")
    with pytest.raises(NotImplementedError):
        challenges.five_looks(blank)
