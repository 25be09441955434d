"""Problem set 1's challenge pays for a start that is late and spread as the noised pictures are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import challenge_answer

from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course import challenges
from ddpm_lib.course.challenges import late
from ddpm_lib.data import load_fashion_mnist
from ddpm_lib.schedules import linear_schedule

MEANS_ALONE = (" + spread", "")
EARLIER = ("t = 250", "t = 700")
PURE_NOISE = ("alpha_bar**0.5 * mean + noise * eps + spread", "eps")


@pytest.mark.parametrize(
    ("points", "edits"),
    [
        pytest.param(4, (), id="means and directions, late"),
        pytest.param(3, (MEANS_ALONE, ("t = 250", "t = 350")), id="means, late"),
        pytest.param(2, (MEANS_ALONE, EARLIER), id="means, earlier"),
        pytest.param(1, (PURE_NOISE, ("t = 250", "t = 999")), id="pure noise at the end of the schedule"),
        pytest.param(0, (PURE_NOISE,), id="pure noise where a picture is expected"),
    ],
)
def test_a_late_start_pays_for_the_place_the_means_and_the_directions(points: int, edits: tuple[tuple[str, str], ...]):
    paid, said = challenges.late_start(challenge_answer("ps1", *edits))
    assert (paid, said.endswith(f": {points} of 4 points")) == (points, True)


def test_the_reference_draws_a_normal_distribution_noised():
    start, alpha_bars = challenge_answer("ps1"), linear_schedule().alpha_bars
    generator = torch.Generator().manual_seed(0)
    mean, eps = torch.full((20_000, 784), 0.5), torch.randn(20_000, 784, generator=generator)
    directions = torch.eye(784)[:2].expand(20_000, -1, -1)
    t, x_t = start(mean, directions, torch.tensor([[3.0, 2.0]]).expand(20_000, -1), eps, alpha_bars)
    alpha_bar = float(alpha_bars[t])
    assert float(x_t.mean()) == pytest.approx(alpha_bar**0.5 * 0.5, abs=0.01)
    expected = [alpha_bar * s**2 + 1 - alpha_bar for s in (3, 2, 0)]
    torch.testing.assert_close(x_t.var(dim=0)[:3], torch.tensor(expected), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda eps: (1000, eps), "starts at t = 1000, outside 3 … 999"),
        (lambda eps: (2, eps), "starts at t = 2, outside 3 … 999"),
        (lambda eps: (300.5, eps), r"expected a pair \(t, x_t\)"),
        (lambda eps: eps, r"expected a pair \(t, x_t\)"),
        (lambda eps: (300, eps[:1]), r"of the shape of eps, \[2, 784\] here"),
        (lambda eps: (300, None), "x_t must be a tensor"),
        (lambda eps: (300, eps / 0), "infinite or not a number"),
    ],
)
def test_what_is_no_start_is_told_why(answer: Any, says: str):
    with pytest.raises(WrongAnswer, match=says):
        challenges.late_start(lambda mean, directions, deviations, eps, alpha_bars: answer(eps))


def test_a_challenge_not_taken_costs_no_time(monkeypatch):
    def blank(mean, directions, deviations, eps, alpha_bars):
        raise NotImplementedError

    monkeypatch.delattr(late, "trained_network")
    with pytest.raises(NotImplementedError):
        challenges.late_start(blank)


def test_the_shipped_statistics_are_those_of_the_training_images():
    shipped = {name: tensor.double() for name, tensor in load_tensors(late.CLASS_STATISTICS)[0].items()}
    train = load_fashion_mnist("train")
    made = {name: tensor.double() for name, tensor in late.class_statistics(train.images, train.labels).items()}
    assert shipped.keys() == made.keys()
    for name in ("means", "deviations"):
        torch.testing.assert_close(made[name], shipped[name], rtol=2e-3, atol=1e-3)
    # A direction may be turned round, and neighbours of nearly equal variance may mix: compare what they span, weighed.
    spread = [each["directions"].transpose(1, 2) * each["deviations"][:, None] for each in (made, shipped)]
    ours, theirs = (root @ root.transpose(1, 2) for root in spread)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)
