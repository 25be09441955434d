"""Averages of the weights: the closed form, PyTorch's own average, the power function's integral."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import refused
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from ddpm_lib.ema import EMA, PowerEMA, gamma_from_sigma_rel
from ddpm_lib.samplers import sample
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.unet import UNet


class Scalar(nn.Module):
    """One weight and one buffer, both in float64."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))

    def become(self, value: float) -> Scalar:
        self.weight.data.fill_(value)
        self.seen += 1
        return self


def random_walk(model: nn.Module, steps: int):
    """Changes all weights `steps` times, the same way each time it is called."""
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        yield step


# --- the exponential average


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_closed_form_after_n_updates(beta):
    model = Scalar(5.0)
    ema = EMA(model, beta)
    model.become(-3.0)
    for n in range(1, 51):
        ema.update(model, n)
        assert_close(float(ema.model.weight), beta**n * 5.0 + (1 - beta**n) * -3.0)


def test_agrees_with_pytorchs_average():
    model = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    ours = EMA(model, 0.95)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    theirs.update_parameters(model)  # its first update copies; ours begins with that copy
    for step in random_walk(model, 30):
        ours.update(model, step)
        theirs.update_parameters(model)
    for average, expected in zip(ours.model.parameters(), theirs.module.parameters(), strict=True):
        assert_close(average, expected)


def test_average_copies_until_start():
    model = Scalar(100.0)
    ema = EMA(model, 0.9, start=3)
    for step, value in enumerate([10.0, 20.0, 30.0], start=1):
        ema.update(model.become(value), step)
        assert float(ema.model.weight) == value
    ema.update(model.become(40.0), 4)
    assert_close(float(ema.model.weight), 0.9 * 30 + 0.1 * 40)


def test_without_a_start_the_first_weights_linger():
    # After 100 steps with beta 0.995 the random first weights still make up 0.995^100, 61 % of the average.
    model = Scalar(1.0)
    ema = EMA(model, 0.995)
    model.become(0.0)
    for step in range(1, 101):
        ema.update(model, step)
    assert_close(float(ema.model.weight), 0.605770, rtol=1e-5, atol=0)


def test_buffers_are_copied_not_averaged():
    model = nn.BatchNorm1d(3)
    ema = EMA(model, 0.99)
    for step in range(1, 6):
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))
        ema.update(model, step)
    assert int(ema.model.num_batches_tracked) == 5
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert torch.equal(ema.model.running_var, model.running_var)


def test_updating_only_reads_the_live_network():
    model = nn.Linear(3, 3)
    before = [p.clone() for p in model.parameters()]
    EMA(model, 0.5).update(model, 1)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.requires_grad


def test_sampling_from_the_average_leaves_live_weights_alone():
    model = UNet(num_classes=None).train()
    ema = EMA(model, 0.5)
    for parameter in model.parameters():
        parameter.data += 0.01
    ema.update(model, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = sample(ema.model, linear_schedule(10), 2, steps=3, generator=torch.Generator().manual_seed(0))
    live = sample(model, linear_schedule(10), 2, steps=3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(averaged, live)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_average_is_ready_to_sample_from():
    ema = EMA(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train())
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_the_average_keeps_the_memory_layout():
    # A parameter in another layout would be averaged just as well, but the network would then compute slower.
    model = UNet(num_classes=None)
    ema = EMA(model)
    ema.update(model, 1)
    for average, parameter in zip(ema.model.parameters(), model.parameters(), strict=True):
        assert average.stride() == parameter.stride()


# --- the power-function average


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.25])
def test_the_power_average_weighs_time_t_with_t_to_the_gamma(sigma_rel):
    # The definition is an integral: (gamma + 1) / T^(gamma + 1) times that of t^gamma w(t) dt (Karras et al., eq. 1).
    # With w constant over each step, step k's share is (k^(gamma + 1) - (k - 1)^(gamma + 1)) / T^(gamma + 1).
    model = Scalar(1e3)  # the first weights, before any training, have no share at all
    ema, steps = PowerEMA(model, sigma_rel), 200
    values = torch.randn(steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k, value in enumerate(values.tolist(), start=1):
        ema.update(model.become(value), k)
    edges = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (ema.gamma + 1)
    assert_close(float(ema.model.weight), float((edges.diff() * values).sum()))


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10])
def test_sigma_rel_is_the_relative_width_of_the_window(sigma_rel):
    gamma = gamma_from_sigma_rel(sigma_rel)
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    weights = t**gamma / (t**gamma).sum()
    mean = (weights * t).sum()
    assert_close(float((weights * (t - mean) ** 2).sum().sqrt()), sigma_rel, rtol=1e-4, atol=0)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_solves_the_papers_equation(sigma_rel):
    gamma = gamma_from_sigma_rel(sigma_rel)
    assert gamma > 0
    assert_close(math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))), sigma_rel)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_has_the_papers_values(sigma_rel, gamma):
    assert round(gamma_from_sigma_rel(sigma_rel), 2) == gamma


MODEL = Scalar()
BAD = {
    "beta 1.5": (lambda: EMA(MODEL, 1.5), ["beta is 1.5", "[0, 1]"]),
    "beta -0.1": (lambda: EMA(MODEL, -0.1), ["beta is -0.1", "[0, 1]"]),
    "beta NaN": (lambda: EMA(MODEL, math.nan), ["beta is nan", "[0, 1]"]),
    "start -1": (lambda: EMA(MODEL, 0.9, -1), ["step -1", "0 or later"]),
    "step 0": (lambda: EMA(MODEL).update(MODEL, 0), ["step is 0", "count from 1"]),
    "step 0 of a power average": (lambda: PowerEMA(MODEL, 0.05).update(MODEL, 0), ["step is 0", "count from 1"]),
    "sigma_rel 0": (lambda: PowerEMA(MODEL, 0.0), ["sigma_rel is 0.0", "(0, 0.28]"]),
    "sigma_rel 0.3": (lambda: PowerEMA(MODEL, 0.3), ["sigma_rel is 0.3", "(0, 0.28]"]),
    "sigma_rel NaN": (lambda: gamma_from_sigma_rel(math.nan), ["sigma_rel is nan", "(0, 0.28]"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
