"""Problem set 5's challenge pays for guidance where it helps, and refuses plans that cost too much or are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from planted import challenge_answer
from torch import Tensor

from ddpm_lib import pretrained
from ddpm_lib.checks import WrongAnswer
from ddpm_lib.course import challenges
from ddpm_lib.course.challenges import measuring
from ddpm_lib.sampler_steps import spaced_timesteps
from ddpm_lib.samplers import dpm_solver


@pytest.mark.parametrize(
    ("points", "edits"),
    [
        pytest.param(4, (), id="guided where it helps"),
        pytest.param(2, (("T, n = 1000, 6", "T, n = 1000, 8"), ("[0, 2, 2, 0, 0, 0]", "[0] * 8")), id="never guided"),
        pytest.param(1, (("T, n = 1000, 6", "T, n = 1000, 4"), ("[0, 2, 2, 0, 0, 0]", "[1] * 4")), id="always guided"),
    ],
)
def test_eight_evaluations_pay_for_guidance_where_it_helps(points: int, edits: tuple[tuple[str, str], ...]):
    assert challenges.eight_evaluations(challenge_answer("ps5", *edits)())[0] == points


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ([(999, 0), (600, 2), (300, 2), (100, 2), (40, 0), (10, 0)], "costs 9 evaluations of the network, at most 8"),
        ([(999, -1), (999, -1)], "after t = 999 comes t = 999; from noise to picture the timesteps fall"),
        ([(10, 0), (999, 0)], "after t = 10 comes t = 999"),
        ([(1000, 0), (500, 0)], r"timestep 1000 is outside 0 … 999: t counts from 0"),
        ([(999, float("nan")), (500, 0)], "the guidance weight at t = 999 is nan"),
        ([(999, 1)], "the plan has 1 steps; two are the least"),
        ([(999.5, 1), (3, 1)], "list of pairs"),
        ([999, 500], "list of pairs"),
        (None, "list of pairs"),
    ],
)
def test_a_plan_that_costs_too_much_or_is_none_is_told_why(plan: Any, says: str):
    with pytest.raises(WrongAnswer, match=says):
        challenges.eight_evaluations(plan)


def test_a_plan_is_sampled_as_dpm_solver_samples_with_the_whole_schedule(monkeypatch):
    seen: list[Tensor] = []
    monkeypatch.setattr(measuring, "SAMPLES", measuring.BATCH)
    monkeypatch.setattr(measuring, "fid", lambda images: seen.append(images) or 0.0)
    monkeypatch.setattr("ddpm_lib.training.choose_precision", lambda requested, device: "fp32")
    challenges.eight_evaluations([(t, 1.0) for t in spaced_timesteps(1000, 2, "quadratic")], seed=7)
    x_T = torch.randn(measuring.BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(7))
    network, schedule = pretrained.load("cfg_ema"), pretrained.schedule("cfg_ema")
    *_, last = dpm_solver(network, x_T, schedule, measuring.LABELS, 1.0, 2, clip_x_0=True)
    torch.testing.assert_close(seen[0], last.x, rtol=1e-3, atol=1e-3)
