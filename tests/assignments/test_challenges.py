"""The challenge of problem set 4 measures what it says, and pays for it."""

from __future__ import annotations

import nbformat
import pytest
import torch
from planted import SOURCE
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics

from ddpm_lib import evaluation
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.checks import WrongAnswer
from ddpm_lib.classifier import CLASSIFIER_SHA256
from ddpm_lib.course import challenges


def cells(*ids: str) -> dict[str, object]:
    """The names that these cells of the problem set make."""
    names: dict[str, object] = {}
    for cell in nbformat.read(SOURCE / "ps4" / "ps4.ipynb", as_version=4).cells:
        if cell.id in ids:
            exec(compile(cell.source, cell.id, "exec"), names)
    return names


def ddim(model, x_T: Tensor, alpha_bars: Tensor, visits=range(999, -1, -100)) -> Tensor:
    x = x_T
    for t in visits:
        bar, bar_next = float(alpha_bars[t]), float(alpha_bars[t - 100]) if t >= 100 else 1.0
        eps = model(x, t)
        x = (bar_next / bar) ** 0.5 * (x - (1 - bar) ** 0.5 * eps) + (1 - bar_next) ** 0.5 * eps
    return x


def test_the_reference_gets_all_points_and_a_plain_sampler_the_first():
    reference = cells("imports", "challenge")["fast_sample"]
    assert challenges.ten_looks(reference)[0] == 4
    points, said = challenges.ten_looks(ddim)
    assert points == 1
    assert said.endswith("1 of 4 points")


def test_the_shipped_statistics_are_those_of_the_training_images():
    tensors, metadata = load_tensors(challenges.REAL_STATISTICS)
    assert metadata["by"] == CLASSIFIER_SHA256
    real = fid_features_to_statistics(evaluation.real_features())
    torch.testing.assert_close(tensors["mu"], torch.as_tensor(real["mu"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tensors["sigma"], torch.as_tensor(real["sigma"]), rtol=1e-3, atol=1e-5)


def test_looking_more_than_ten_times_is_refused():
    def greedy(model, x_T, alpha_bars):
        for _ in range(11):
            model(x_T, 999)
        return x_T

    with pytest.raises(WrongAnswer, match="more than 10 times"):
        challenges.ten_looks(greedy)


def test_pictures_that_do_not_come_from_the_model_are_refused():
    with pytest.raises(WrongAnswer, match="must lead to that picture"):
        challenges.ten_looks(lambda model, x_T, alpha_bars: torch.zeros_like(x_T))


def test_a_sampler_that_stops_before_the_clean_picture_is_told_so():
    with pytest.raises(WrongAnswer, match="all the way"):
        challenges.ten_looks(lambda model, x_T, alpha_bars: ddim(model, x_T, alpha_bars, range(999, 99, -100)))


def test_a_challenge_not_taken_costs_no_time():
    def blank(model, x_T, alpha_bars):
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        challenges.ten_looks(blank)
