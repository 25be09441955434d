"""Checks for the assignments' exercises: they say what is wrong in the words of the mathematics.

Nothing here is secret, and no solution is in it: `call` calls a student's function and watches how it works; `equal`
and `coefficient` compare what came back, and name the known mistake or the quantity that came instead.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-4  # of the largest expected value: float32 is enough, a wrong formula is not


class WrongAnswer(AssertionError):
    """What a failed check says to the student. Jupyter shows the message alone, without our lines of code."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31mnot yet:\x1b[0m {self}"]


def call(function: Callable[..., Any], *arguments: Any, forbidden: tuple[str, ...] = (), draws: bool = False) -> Any:
    """Calls the student's function, and watches.

    Args:
        function: the student's.
        arguments: what to call it with.
        forbidden: names of further functions that the exercise asks to write, for instance "softmax".
        draws: whether it may use PyTorch's global random generator. Otherwise all random numbers have to come from
            an argument.

    Returns:
        What the function returned.

    Raises:
        WrongAnswer: it returned nothing, called ddpm_lib or a forbidden function, changed a tensor that was given to
            it, or drew from the global generator.
    """
    name = function.__name__
    before = [argument.clone() if isinstance(argument, Tensor) else None for argument in arguments]
    generator = torch.get_rng_state()
    with _watching(name, forbidden), warnings.catch_warnings(), contextlib.redirect_stderr(sys.stdout):
        warnings.simplefilter("ignore")  # nbgrader takes a line on stderr for a failure
        answer = function(*arguments)
    if not draws and not torch.equal(generator, torch.get_rng_state()):
        torch.set_rng_state(generator)
        raise WrongAnswer(
            f"{name} draws from PyTorch's global generator. All noise comes from the arguments: use the tensor or the "
            "generator that was given, e.g. torch.randn(shape, generator=generator)"
        )
    parameters = list(inspect.signature(function).parameters)
    for index, (argument, copy) in enumerate(zip(arguments, before, strict=True)):
        if copy is not None and not torch.equal(argument.nan_to_num(), copy.nan_to_num()):
            which = parameters[index] if index < len(parameters) else f"number {index + 1}"
            raise WrongAnswer(f"{name} changes its argument {which} in place; return a new tensor instead")
    if answer is None:
        raise WrongAnswer(f"{name} returns None. Does it end with a return?")
    return answer


def equal(
    answer: Any,
    expected: Tensor | float,
    what: str,
    instead: Mapping[str, Tensor | float] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Compares an answer, elementwise; a known mistake is called by its name.

    Args:
        answer: the student's tensor or number.
        expected: the right one.
        what: how the message calls it: "x_t at t = 0".
        instead: what known mistakes give: {"the sum where the mean belongs": wrong}.
        tolerance: of the largest expected value.

    Raises:
        WrongAnswer: it differs, has another shape, or is not a number.
    """
    expected = torch.as_tensor(expected).detach()
    answer = _as_tensor(answer, what)
    if _close(answer, expected, tolerance):
        return
    for mistake, value in (instead or {}).items():
        if _close(answer, torch.as_tensor(value), tolerance):
            raise WrongAnswer(f"{what}: {mistake}")
    if answer.shape != expected.shape:
        raise WrongAnswer(f"{what} has the shape {list(answer.shape)}; expected {list(expected.shape)}")
    if not bool(torch.isfinite(answer.double()).all()):
        place = _place((~torch.isfinite(answer.double())).nonzero()[0].tolist())
        raise WrongAnswer(f"{what} is {'NaN' if bool(answer.isnan().any()) else 'infinite'}{place}")
    gap = (answer.double() - expected.double()).abs()
    worst = torch.unravel_index(gap.argmax(), gap.shape) if gap.ndim else ()
    got, right = (float(tensor.double()[worst]) for tensor in (answer, expected))
    raise WrongAnswer(f"{what} is {_number(got)}{_place([int(i) for i in worst])}; expected {_number(right)}")


def coefficient(answer: Any, name: str, betas: Tensor, t: int, what: str) -> None:
    """Checks a weight that a formula puts before something, and says which quantity of the schedule came instead.

    Args:
        answer: the student's number, or a tensor of that number everywhere.
        name: which one is right, as `quantities` spells it: "sqrt(alpha_bar_t)".
        betas: `[T]`.
        t: the 0-based timestep.
        what: how the message calls it: "the weight of x_0".

    Raises:
        WrongAnswer: it is another number, or not everywhere the same.
    """
    known = quantities(betas, t)
    right, tensor = known[name], _as_tensor(answer, what).double().flatten()
    where = f"at t = {t} {what}"
    if not bool(torch.isfinite(tensor).all()):
        raise WrongAnswer(f"{where} is not a finite number; expected {name} = {_number(right)}")
    if float(tensor.max() - tensor.min()) > 1e-5:
        raise WrongAnswer(f"{where} is not the same everywhere; expected {name} = {_number(right)}")
    value = float(tensor[0])
    if abs(value - right) <= 1e-6:
        return
    names = [other for other, number in known.items() if abs(value - number) <= 1e-6]
    came = f"{names[0]} = {_number(value)}" if names and names[0] not in "-101" else _number(value)
    hint = " (index -1 is the last element)" if names and "alpha_bar_T" in names[0] and t == 0 else ""
    raise WrongAnswer(f"{where} is {came}{hint}; expected {name} = {_number(right)}")


def quantities(betas: Tensor, t: int) -> dict[str, float]:
    """The numbers that a schedule knows at timestep t, by their names in the formulas; the simplest names first."""
    alphas = 1 - betas.double()
    alpha_bars = [1.0, *alphas.cumprod(0).tolist()]  # one place later: index t + 1
    bar, before = alpha_bars[t + 1], alpha_bars[t]
    base = {
        "beta_t": float(betas[t]),
        "alpha_t": float(alphas[t]),
        "alpha_bar_t": bar,
        "1 - alpha_bar_t": 1 - bar,
        "alpha_bar_{t-1}": before,
        "1 - alpha_bar_{t-1}": 1 - before,
        "alpha_bar_T": alpha_bars[-1],
        "1 - alpha_bar_T": 1 - alpha_bars[-1],
        "beta_t / (1 - alpha_bar_t)": float(betas[t]) / (1 - bar),
        "the posterior variance": float(betas[t]) * (1 - before) / (1 - bar),
        "beta_t / sqrt(1 - alpha_bar_t)": float(betas[t]) / math.sqrt(1 - bar),
    }
    if t + 2 < len(alpha_bars):
        base |= {"alpha_bar_{t+1}": alpha_bars[t + 2], "1 - alpha_bar_{t+1}": 1 - alpha_bars[t + 2]}
    known = {"0": 0.0, "1": 1.0, "-1": -1.0} | base
    known |= {f"sqrt({name})": math.sqrt(value) for name, value in base.items()}
    known |= {f"1 - sqrt({name})": 1 - math.sqrt(value) for name, value in base.items()}
    known |= {f"1 / {name}": 1 / value for name, value in list(known.items())[3:] if value}
    known |= {f"-{name}": -value for name, value in list(known.items())[3:]}
    known |= {f"({name})^2": value**2 for name, value in base.items()}
    return known


def fails(function: Callable[[], object]) -> bool:
    """Whether calling raises an error: for exercises that ask to refuse something."""
    try:
        function()
    except Exception:
        return True
    return False


@contextlib.contextmanager
def _watching(name: str, forbidden: tuple[str, ...]) -> Iterator[None]:
    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            module, called = frame.f_globals.get("__name__", ""), frame.f_code.co_name
            if module.startswith("ddpm_lib.") and module != __name__ and not called.startswith("<"):
                raise WrongAnswer(f"{name} calls {called} of {module}; in this exercise you write it yourself")
        elif event == "c_call":
            called = argument.__name__
        else:
            return
        if called in forbidden:
            raise WrongAnswer(f"{name} calls {called}; in this exercise you write it yourself")

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(previous)


def _as_tensor(answer: Any, what: str) -> Tensor:
    if isinstance(answer, Tensor):
        return answer.detach()
    try:
        return torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        raise WrongAnswer(f"{what} is a {type(answer).__name__}; expected a tensor or a number") from None


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.detach().double(), b.detach().double()  # a number of what needs a gradient is a warning
    scale = float(b[torch.isfinite(b)].abs().max()) if bool(torch.isfinite(b).any()) else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * scale + 1e-9, equal_nan=True)


def _place(index: list[int]) -> str:
    return f" at {index}" if index else ""


def _number(value: float) -> str:
    return f"{value:.4g}"
