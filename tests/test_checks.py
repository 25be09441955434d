"""The checks of the assignments say what is wrong, and nothing when nothing is."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from torch import Tensor

from ddpm_lib import checks
from ddpm_lib.schedules import linear_schedule

BETAS = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)


def says(*words: str):
    return pytest.raises(checks.WrongAnswer, match=".*".join(words))


def test_a_right_answer_passes_in_any_precision():
    checks.equal(torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2], dtype=torch.float64), "x")
    checks.equal(3, 3, "t")
    checks.coefficient(torch.full((2, 2), 0.9), "alpha_t", BETAS, 0, "the weight")


def test_a_right_answer_passes_even_where_a_mistake_gives_the_same():
    checks.equal(1.0, 1.0, "w", {"a mistake": 1.0})


def test_a_difference_is_named_with_its_place():
    with says("x is 5", r"\[0, 1\]", "expected 2"):
        checks.equal(torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 2.0]]), "x")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.ones(3), r"shape \[3\]; expected \[2\]"),
        (torch.tensor([1.0, float("nan")]), r"NaN at \[1\]"),
        (torch.tensor([1.0, float("inf")]), r"infinite at \[1\]"),
        ("text", "is a str"),
        (torch.tensor([2.0, 4.0]), "x: doubled"),
    ],
)
def test_each_fault_has_its_words(answer: object, words: str):
    with says(words):
        checks.equal(answer, torch.tensor([1.0, 2.0]), "x", {"doubled": torch.tensor([2.0, 4.0])})


def test_cancelling_differences_do_not_pass():
    with says("x is"):
        checks.equal(torch.tensor([1.1, 1.9]), torch.tensor([1.0, 2.0]), "x")


def test_the_quantity_that_came_instead_is_named():
    with says("at t = 1 the weight of x_0 is alpha_t = 0.7", r"expected sqrt\(alpha_bar_t\)"):
        checks.coefficient(0.7, "sqrt(alpha_bar_t)", BETAS, 1, "the weight of x_0")


def test_an_index_that_wraps_around_is_named():
    last = float(torch.cumprod(1 - BETAS, 0)[-1])
    with says("index -1 is the last element"):
        checks.coefficient(last, "alpha_bar_{t-1}", BETAS, 0, "the weight")


def test_quantities_are_those_of_the_schedule():
    schedule = linear_schedule(50)
    for t in (0, 20, 49):
        known = checks.quantities(schedule.betas, t)
        assert known["alpha_bar_t"] == pytest.approx(float(schedule.alpha_bars[t]))
        assert known["alpha_bar_{t-1}"] == pytest.approx(float(schedule.alpha_bars_prev[t]))
        assert known["the posterior variance"] == pytest.approx(float(schedule.posterior_variance[t]))


def test_the_call_gives_what_the_function_gives_and_leaves_no_watcher_behind():
    before = sys.getprofile()
    assert checks.call(lambda a, b: a + b, 1, 2) == 3
    assert sys.getprofile() is before


def double_in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


def from_the_library(T: int) -> Tensor:
    return linear_schedule(T).betas


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (lambda x: None, torch.ones(1), "returns None"),
        (double_in_place, torch.ones(1), "double_in_place changes its argument x"),
        (lambda x: torch.randn_like(x), torch.ones(1), "global generator"),
        (from_the_library, 5, "calls linear_schedule of ddpm_lib.schedules"),
        (lambda x: torch.softmax(x, 0), torch.ones(1), "calls softmax"),
    ],
)
def test_what_an_answer_must_not_do_is_noticed(function, argument, words: str):
    with says(words):
        checks.call(function, argument, forbidden=("softmax",))


def test_a_warning_in_an_answer_is_no_failure(capsys: pytest.CaptureFixture[str]):
    def warn(x: int) -> int:
        warnings.warn("old", stacklevel=1)
        print("on stderr", file=sys.stderr)
        return x

    assert checks.call(warn, 1) == 1
    assert capsys.readouterr().err == ""


def test_jupyter_shows_the_message_alone():
    assert checks.WrongAnswer("x is 1")._render_traceback_() == ["\x1b[31mnot yet:\x1b[0m x is 1"]


def test_errors_are_recognised():
    assert checks.fails(lambda: 1 / 0)
    assert not checks.fails(lambda: None)
