"""The challenges measure what they say, and pay for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nbformat
import pytest
import torch
from planted import SOURCE
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ddpm_lib import evaluation, pretrained
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.checks import WrongAnswer
from ddpm_lib.classifier import CLASSIFIER_SHA256, judge
from ddpm_lib.course import challenges
from ddpm_lib.sampler_steps import spaced_timesteps
from ddpm_lib.samplers import dpm_solver

EQUAL_GAPS = ("((n - i) / n) ** 2", "((n - i) / n)")
FIRST_ORDER = ("target = x_0 if x_0_before is None", "target = x_0 if True")
NOT_CUT = (".clamp(-1, 1)", "")


def answer(name: str, *edits: tuple[str, str]) -> Callable[..., Any]:
    """The reference's function for a set's challenge, with some of its text replaced."""
    names: dict[str, Any] = {}
    for cell in nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4).cells:
        if cell.id in ("imports", "challenge"):
            source = cell.source
            if cell.id == "challenge":
                for old, new in edits:
                    assert old in source
                    source = source.replace(old, new)
            exec(compile(source, cell.id, "exec"), names)
    return names["fast_sample" if name == "ps4" else "plan"]


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
    paid, said = challenges.five_looks(answer("ps4", *edits))
    assert (paid, said.endswith(f": {points} of 4 points")) == (points, True)


@pytest.mark.parametrize(
    ("points", "edits"),
    [
        pytest.param(4, (), id="guided where it helps"),
        pytest.param(2, (("T, n = 1000, 6", "T, n = 1000, 8"), ("[0, 2, 2, 0, 0, 0]", "[0] * 8")), id="never guided"),
        pytest.param(1, (("T, n = 1000, 6", "T, n = 1000, 4"), ("[0, 2, 2, 0, 0, 0]", "[1] * 4")), id="always guided"),
    ],
)
def test_eight_evaluations_pay_for_guidance_where_it_helps(points: int, edits: tuple[tuple[str, str], ...]):
    assert challenges.eight_evaluations(answer("ps5", *edits)())[0] == points


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
    monkeypatch.setattr(challenges, "SAMPLES", challenges.BATCH)
    monkeypatch.setattr(challenges, "fid", lambda images: seen.append(images) or 0.0)
    monkeypatch.setattr("ddpm_lib.training.choose_precision", lambda requested, device: "fp32")
    challenges.eight_evaluations([(t, 1.0) for t in spaced_timesteps(1000, 2, "quadratic")], seed=7)
    x_T = torch.randn(challenges.BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(7))
    network, schedule = pretrained.load("cfg_ema"), pretrained.schedule("cfg_ema")
    *_, last = dpm_solver(network, x_T, schedule, challenges.LABELS, 1.0, 2, clip_x_0=True)
    torch.testing.assert_close(seen[0], last.x, rtol=1e-3, atol=1e-3)


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
    early = answer("ps4", ("return x_0", "return x"))
    with pytest.raises(WrongAnswer, match="all the way"):
        challenges.five_looks(early)


def test_a_challenge_not_taken_costs_no_time(monkeypatch):
    def blank(model, x_T, alpha_bars):
        raise NotImplementedError

    monkeypatch.delattr(challenges, "_network")
    with pytest.raises(NotImplementedError):
        challenges.five_looks(blank)


def test_the_network_is_the_averaged_one_of_the_last_epoch():
    ours, shipped = challenges._network().state_dict(), pretrained.load("cfg_ema").state_dict()
    assert ours.keys() == shipped.keys()
    assert all(torch.equal(ours[name], shipped[name]) for name in ours)
    torch.testing.assert_close(challenges.linear_schedule().alpha_bars, pretrained.schedule("cfg_ema").alpha_bars)


def test_the_distance_is_that_of_the_evaluation():
    images = torch.rand(300, 1, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1
    real = {name: tensor.numpy() for name, tensor in load_tensors(challenges.REAL_STATISTICS)[0].items()}
    theirs = fid_statistics_to_metric(fid_features_to_statistics(judge(images)[0]), real, verbose=False)
    assert challenges.fid(images) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_the_shipped_statistics_are_those_of_the_training_images():
    tensors, metadata = load_tensors(challenges.REAL_STATISTICS)
    assert metadata["by"] == CLASSIFIER_SHA256
    real = fid_features_to_statistics(evaluation.real_features())
    torch.testing.assert_close(tensors["mu"], torch.as_tensor(real["mu"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tensors["sigma"], torch.as_tensor(real["sigma"]), rtol=1e-3, atol=1e-5)
