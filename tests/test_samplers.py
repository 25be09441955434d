"""The samplers, step by step against diffusers, against the forward process, and against each other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from tiny import refused, their_scheduler
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_lib.diffusion import posterior
from ddpm_lib.guidance import guided_eps
from ddpm_lib.sampler_steps import SPACINGS, SampleStep, spaced_timesteps
from ddpm_lib.samplers import SAMPLERS, ancestral, ddim, ddpm, dpm_solver, sample, transition
from ddpm_lib.schedules import Schedule, cosine_schedule, linear_schedule
from ddpm_lib.unet import UNet

SHORT = linear_schedule(12, 0.001, 0.6)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
both_schedules = pytest.mark.parametrize("name", ["linear", "cosine"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@pytest.fixture(scope="module")
def unet() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet().requires_grad_(False)


class Knows(nn.Module):
    """The perfect network for a data set of pictures N(mean, std^2), every pixel by itself: its eps is known."""

    def __init__(self, schedule: Schedule, mean: Tensor | float, std: float = 0.0) -> None:
        super().__init__()
        self.schedule, self.std = schedule, std
        self.mean = nn.Parameter(torch.as_tensor(mean, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        alpha_bar = self.schedule.alpha_bars[t].reshape(-1, 1, 1, 1)
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() / variance * (x - alpha_bar.sqrt() * self.mean)


# --- against diffusers: whole trajectories, each side with its own pictures, through a real network


def assert_same_trajectory(unet: UNet, steps_of_ours, scheduler, schedule: Schedule, steps: int, **options) -> None:
    """Runs both from the same x_T with the same noise; their pictures must agree after every step.

    The network computes in float32 as always, everything around it in float64: the formulas are what is compared.
    """

    def network(x: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return unet(x.float(), t, y, drop).double()

    x, y = noise(1, 1, 28, 28, dtype=torch.float64), torch.tensor([7])
    scheduler.set_timesteps(steps)
    theirs, draws, visited = x, generator(1), []
    for step in steps_of_ours(network, x, schedule, y, steps=steps, generator=generator(1)):
        t = int(scheduler.timesteps[step.index - 1])
        eps = network(theirs, torch.tensor([t]), y)
        result = scheduler.step(eps, t, theirs, generator=draws, **options)
        theirs = result.prev_sample
        visited.append((step.t, t))
        # Into the clean picture diffusers' DDPM adds noise after a leap; the report's algorithms never do.
        last = result.pred_original_sample if step.index == steps else theirs
        scale = float(last.abs().max())  # this network is not trained: its pictures leave [-1, 1] by far
        assert_close(step.x / scale, last / scale, rtol=0, atol=1e-5)
        assert_close(step.x_0 / scale, result.pred_original_sample / scale, rtol=1e-5, atol=1e-5)
    assert len(visited) == steps
    assert all(ours == others for ours, others in visited)


@both_schedules
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_trajectory_agrees_with_diffusers(unet, name, eta):
    scheduler = their_scheduler(DDIMScheduler, name, 1000, timestep_spacing="trailing", set_alpha_to_one=True)

    def ours(*arguments, **options):
        return ddim(*arguments, eta=eta, **options)

    assert_same_trajectory(unet, ours, scheduler, Schedule(scheduler.betas), steps=10, eta=eta)


def test_ddim_with_clipping_agrees_with_diffusers(unet):
    scheduler = their_scheduler(DDIMScheduler, "linear", 1000, timestep_spacing="trailing", set_alpha_to_one=True)
    scheduler.register_to_config(clip_sample=True, clip_sample_range=1.0)

    def ours(*arguments, **options):
        return ddim(*arguments, clip_x_0=True, **options)

    schedule = Schedule(scheduler.betas)
    assert_same_trajectory(unet, ours, scheduler, schedule, steps=10, use_clipped_model_output=True)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("eta", "algorithm"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
def test_dpm_solver_trajectory_agrees_with_diffusers(unet, spacing, eta, algorithm):
    scheduler = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, algorithm_type=algorithm, solver_order=2, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=spaced_timesteps(1000, 15, spacing))
    sigmas = ((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double()).sqrt()
    scheduler.sigmas = torch.cat([sigmas[scheduler.timesteps], torch.zeros(1, dtype=torch.float64)])
    theirs, y, draws, schedule = noise(1, 1, 28, 28), torch.tensor([7]), generator(1), Schedule(scheduler.betas)
    for step in dpm_solver(unet, theirs, schedule, y, steps=15, generator=generator(1), eta=eta, spacing=spacing):
        t = scheduler.timesteps[step.index - 1]
        theirs = scheduler.step(unet(theirs, t[None], y), t, theirs, generator=draws).prev_sample
        scale = float(theirs.abs().max())
        assert_close(step.x / scale, theirs / scale, rtol=0, atol=1e-5)
    assert step.index == step.steps == 15


@both_schedules
def test_ddpm_trajectory_agrees_with_diffusers(unet, name):
    scheduler = their_scheduler(DDPMScheduler, name, 25, timestep_spacing="trailing", variance_type="fixed_large")
    assert_same_trajectory(unet, ddpm, scheduler, Schedule(scheduler.betas), steps=25)


@both_schedules
@pytest.mark.parametrize(("v", "variance_type"), [(0.0, "fixed_small"), (1.0, "fixed_large")])
@pytest.mark.parametrize(("T", "steps"), [(1000, 10), (25, 25)])
def test_algorithm_3_agrees_with_diffusers_at_both_ends_of_v(unet, name, v, variance_type, T, steps):
    scheduler = their_scheduler(DDPMScheduler, name, T, timestep_spacing="trailing", variance_type=variance_type)

    def ours(*arguments, **options):
        return ancestral(*arguments, v=v, **options)

    assert_same_trajectory(unet, ours, scheduler, Schedule(scheduler.betas), steps)


# --- Algorithm 3: its mean and its variance


SCHEDULES = {"linear": linear_schedule(), "cosine": cosine_schedule()}
NEIGHBOURS = [(1, 0), (2, 1), (10, 9), (500, 499), (999, 998)]
LEAPS = [(2, 0), (10, 3), (500, 250), (999, 949), (999, 0)]


@both_schedules
@pytest.mark.parametrize(("t", "t_next"), NEIGHBOURS)
def test_algorithm_3_variance_lies_between_posterior_and_beta(name, t, t_next):
    schedule = SCHEDULES[name]
    lower, upper = float(schedule.posterior_variance[t]), float(schedule.betas[t])
    assert_close(transition(schedule, t, t_next, v=0.0)[2], lower, rtol=1e-9, atol=0)
    assert_close(transition(schedule, t, t_next, v=1.0)[2], upper, rtol=1e-9, atol=0)
    for v in (0.1, 0.3, 0.5, 0.9):
        variance = transition(schedule, t, t_next, v)[2]
        assert lower < variance < upper
        assert_close(math.log(variance), (1 - v) * math.log(lower) + v * math.log(upper))


@both_schedules
@pytest.mark.parametrize(("t", "t_next"), NEIGHBOURS)
def test_algorithm_3_mean_is_the_posteriors(name, t, t_next):
    schedule = SCHEDULES[name]
    weight_x, weight_x_0, _ = transition(schedule, t, t_next, v=0.3)
    x_0, x_t = noise(1, 4, dtype=torch.float64), noise(1, 4, seed=1, dtype=torch.float64)
    mean, _ = posterior(x_0, x_t, torch.tensor([t]), schedule)
    assert_close(weight_x * x_t + weight_x_0 * x_0, mean)


@both_schedules
@pytest.mark.parametrize(("t", "t_next"), NEIGHBOURS + LEAPS)
def test_a_leap_of_algorithm_3_follows_from_composing_the_forward_steps(name, t, t_next):
    # Walk from t_next to t one beta at a time: x_t = factor x_next + noise of variance `added`.
    schedule = SCHEDULES[name]
    factor, added = 1.0, 0.0
    for beta in schedule.betas[t_next + 1 : t + 1].tolist():
        factor, added = factor * math.sqrt(1 - beta), (1 - beta) * added + beta
    # Given x_0, (x_next, x_t) is a two-dimensional Gaussian; condition it on x_t.
    signal, variance = float(schedule.alpha_bars[t_next].sqrt()), 1 - float(schedule.alpha_bars[t_next])
    covariance, variance_t = factor * variance, factor**2 * variance + added
    gain = covariance / variance_t
    expected = (gain, signal - gain * factor * signal, variance - gain * covariance)
    assert_close(transition(schedule, t, t_next, v=0.0), expected, rtol=1e-7, atol=1e-12)
    assert_close(transition(schedule, t, t_next, v=1.0)[2], added, rtol=1e-7, atol=0)


# --- against each other


def steps_of(sampler, model, schedule, **options) -> list[SampleStep]:
    return list(sampler(model, noise(2, 1, 28, 28, dtype=torch.float64), schedule, generator=generator(1), **options))


LEAPING = {"steps": 5, "spacing": "quadratic"}
SAME = {
    "DDPM is Algorithm 3 with v = 1": (ddpm, {}, {"v": 1.0}),
    "DDIM with eta = 1 is Algorithm 3 with v = 0": (ddim, {"eta": 1.0, "steps": None}, {"v": 0.0}),
    "also over leaps": (ddim, {"eta": 1.0, **LEAPING}, {"v": 0.0, **LEAPING}),
}


@pytest.mark.parametrize(("sampler", "options", "options_of_3"), SAME.values(), ids=SAME)
def test_two_samplers_are_one(sampler, options, options_of_3):
    model = Knows(SHORT, 0.3, std=0.5)
    ours, of_3 = steps_of(sampler, model, SHORT, **options), steps_of(ancestral, model, SHORT, **options_of_3)
    for a, b in zip(ours, of_3, strict=True):
        assert (a.index, a.steps, a.t) == (b.index, b.steps, b.t)
        assert_close(a.x, b.x)
        assert_close(a.x_0, b.x_0)


def test_where_x_0_stays_the_same_the_noisy_dpm_solver_is_algorithm_3_with_v_0():
    model = Knows(SHORT, 0.3)
    ours, of_3 = (
        steps_of(dpm_solver, model, SHORT, eta=1.0, **LEAPING),
        steps_of(ancestral, model, SHORT, v=0.0, **LEAPING),
    )
    for a, b in zip(ours, of_3, strict=True):
        assert_close(a.x, b.x)


@pytest.mark.parametrize("steps", [12, 25])
def test_in_few_noisy_steps_second_order_misses_the_datas_spread_by_less_than_algorithm_3(steps):
    model, schedule, missed = Knows(linear_schedule(), 0.3, std=0.5), linear_schedule(), []
    for sampler, options in ((dpm_solver, {"eta": 1.0}), (ancestral, {"v": 0.0})):
        x_T = noise(20, 1, 28, 28, dtype=torch.float64)
        options |= {"steps": steps, "spacing": "quadratic", "generator": generator(1)}
        *_, last = sampler(model, x_T, schedule, **options)
        missed.append(abs(float(last.x.std()) - 0.5))
    assert missed[0] < 0.6 * missed[1]


def test_ddpm_step_uses_alpha_bar_in_the_denominator():
    # The report printed (1 - alpha_t) / sqrt(1 - alpha_t).
    x, eps = noise(1, 1, 28, 28), noise(1, 1, 28, 28, seed=2)
    step = next(ddpm(lambda *_: eps, x, SHORT, generator=generator(1)))
    alpha, alpha_bar, beta = (float(values[-1]) for values in (SHORT.alphas, SHORT.alpha_bars, SHORT.betas))
    z = noise(1, 1, 28, 28, seed=1)
    right = (x - (1 - alpha) / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha) + math.sqrt(beta) * z
    printed = (x - (1 - alpha) / math.sqrt(1 - alpha) * eps) / math.sqrt(alpha) + math.sqrt(beta) * z
    assert_close(step.x, right)
    assert not torch.allclose(step.x, printed, atol=0.1)


# --- what every sampler does


@every_sampler
def test_a_network_that_knows_the_one_picture_leads_to_it(sampler):
    picture = noise(1, 1, 28, 28, dtype=torch.float64).clamp(-1, 1)
    x = sample(Knows(SHORT, picture), SHORT, 3, sampler=sampler, steps=SHORT.T, generator=generator())
    assert_close(x, picture.expand_as(x), rtol=0, atol=1e-6)


VARIANTS = {
    "ddpm": (ddpm, {}),
    "ancestral v=0": (ancestral, {"v": 0.0}),
    "ancestral v=0.3": (ancestral, {"v": 0.3}),
    "ancestral v=1": (ancestral, {"v": 1.0}),
    "ddim eta=0": (ddim, {"eta": 0.0}),
    "ddim eta=1": (ddim, {"eta": 1.0}),
    "dpm_solver eta=0": (dpm_solver, {"eta": 0.0}),
    "dpm_solver eta=0.5": (dpm_solver, {"eta": 0.5}),
    "dpm_solver eta=1": (dpm_solver, {"eta": 1.0}),
}


@pytest.mark.parametrize(("sampler", "options"), VARIANTS.values(), ids=VARIANTS)
def test_samples_have_the_mean_and_variance_of_the_data(sampler, options):
    # Data N(0.3, 0.5^2), the network perfect: over many small steps every sampler must arrive there.
    schedule = linear_schedule(400, 1e-4, 0.05)
    x_T = noise(20, 1, 28, 28, dtype=torch.float64)
    for step in sampler(Knows(schedule, 0.3, std=0.5), x_T, schedule, steps=400, generator=generator(1), **options):
        x = step.x
    assert_close(float(x.mean()), 0.3, rtol=0, atol=0.015)
    assert_close(float(x.std()), 0.5, rtol=0, atol=0.015)


@every_sampler
def test_same_seed_same_pictures(unet, sampler):
    steps = SHORT.T if sampler == "ddpm" else 4
    first, same, other = (
        sample(unet, SHORT, 2, sampler=sampler, steps=steps, generator=generator(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


DRAWS = {
    "ddpm": (ddpm, {}, 11),
    "ancestral": (ancestral, {}, 11),
    "ancestral in leaps": (ancestral, {"steps": 5}, 4),
    "ancestral at once": (ancestral, {"steps": 1}, 0),
    "ddim eta=1": (ddim, {"steps": 5, "eta": 1.0}, 4),
    "ddim eta=0": (ddim, {"steps": 5}, 0),
    "dpm_solver eta=1": (dpm_solver, {"steps": 5, "eta": 1.0}, 4),
    "dpm_solver eta=0": (dpm_solver, {"steps": 5}, 0),
}


@pytest.mark.parametrize(("sampler", "options", "draws"), DRAWS.values(), ids=DRAWS)
def test_no_noise_at_the_last_step(sampler, options, draws):
    x_T, used, expected = noise(2, 1, 28, 28, dtype=torch.float64), generator(1), generator(1)
    *_, last = sampler(Knows(SHORT, 0.3, std=0.5), x_T, SHORT, generator=used, **options)
    assert_close(last.x, last.x_0)
    for _ in range(draws):
        torch.randn(x_T.shape, generator=expected, dtype=torch.float64)
    assert torch.equal(used.get_state(), expected.get_state())


@every_sampler
def test_each_step_tells_what_it_saw(unet, sampler):
    y, w = torch.tensor([3, 8]), torch.tensor([0.5, 2.0])
    x, seen = noise(2, 1, 28, 28), []
    for step in SAMPLERS[sampler](unet, x, SHORT, y, w, steps=SHORT.T, generator=generator(1)):
        seen.append((step.index, step.steps, step.t))
        eps = guided_eps(unet, x, torch.full((2,), step.t), y, w)
        assert torch.equal(step.eps, eps)
        alpha_bar = float(SHORT.alpha_bars[step.t])
        assert_close(step.x_0, (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar))
        x = step.x
    spacing = "quadratic" if "dpm_solver" in sampler else "linear"
    assert seen == [(i + 1, 12, t) for i, t in enumerate(spaced_timesteps(12, 12, spacing))]


@every_sampler
def test_the_callback_gets_every_step_and_the_result_is_the_last(unet, sampler):
    seen: list[SampleStep] = []
    x = sample(unet, SHORT, 2, sampler=sampler, steps=SHORT.T, generator=generator(), callback=seen.append)
    assert [step.index for step in seen] == list(range(1, 13))
    assert torch.equal(x, seen[-1].x)


@every_sampler
def test_no_gradient_is_recorded_and_the_callers_setting_stays(sampler):
    model = Knows(SHORT, 0.3)
    for step in SAMPLERS[sampler](model, noise(1, 1, 28, 28), SHORT, steps=SHORT.T, generator=generator(1)):
        assert not step.x.requires_grad
        assert torch.is_grad_enabled()


def test_sample_draws_x_T_first_then_the_steps_noise():
    used = generator(9)
    x_T = torch.randn(2, 1, 28, 28, generator=used)
    *_, last = ddpm(Knows(SHORT, 0.3, 0.5), x_T, SHORT, generator=used)
    assert_close(sample(Knows(SHORT, 0.3, 0.5), SHORT, 2, sampler="ddpm", generator=generator(9)), last.x)


def test_labels_say_how_many_pictures_and_which(unet):
    y = torch.tensor([0, 4, 9])
    x = sample(unet, SHORT, y=y, steps=3, generator=generator())
    *_, last = ddim(unet, noise(3, 1, 28, 28), SHORT, y, steps=3)
    assert torch.equal(x, last.x)


def test_guidance_reaches_the_network(unet):
    y = torch.tensor([0, 4])
    unguided, guided, unlabelled, away = (
        sample(unet, SHORT, 2, y, w, steps=3, generator=generator())
        for y, w in ((y, 0.0), (y, 3.0), (None, 0.0), (y, -1.0))
    )
    assert not torch.allclose(unguided, guided)
    assert torch.equal(unlabelled, away)


def test_a_sampler_may_be_a_function():
    def lazy(model, x_T, schedule, y=None, guidance_weight=0.0, steps=None, generator=None):
        yield SampleStep(1, 1, 0, x_T, x_T, x_T + steps)

    x = sample(Knows(SHORT, 0.0), SHORT, 2, sampler=lazy, steps=5, generator=generator())
    assert_close(x, noise(2, 1, 28, 28) + 5)


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 60), ("ancestral", 60), ("ddim", 50), ("dpm_solver", 12)])
def test_the_default_number_of_steps(sampler, steps):
    seen = []
    schedule = linear_schedule(60)
    sample(Knows(schedule, 0.0), schedule, 1, sampler=sampler, generator=generator(), callback=seen.append)
    assert len(seen) == steps


# --- which timesteps


@pytest.mark.parametrize("spacing", SPACINGS)
def test_visits_start_with_the_last_timestep_fall_and_never_repeat(spacing):
    for T in [*range(1, 41), 99, 100, 101, 999, 1000, 1001]:
        for steps in {*range(1, min(T, 60) + 1), T // 2, T - 1, T} - {0}:
            visits = spaced_timesteps(T, steps, spacing)
            assert len(visits) == steps
            assert visits[0] == T - 1
            assert visits[-1] >= 0
            assert all(a > b for a, b in pairwise(visits)), (T, steps, visits)


def test_linear_spacing_has_equal_gaps():
    assert spaced_timesteps(1000, 4) == [999, 749, 499, 249]
    assert spaced_timesteps(10, 10) == list(range(9, -1, -1))


def test_quadratic_gaps_shrink_towards_the_picture():
    visits = spaced_timesteps(1000, 20, "quadratic")
    gaps = [a - b for a, b in pairwise(visits)]
    assert all(a >= b for a, b in pairwise(gaps))
    assert gaps[0] > 10 * gaps[-1]


# --- bad input


MODEL = Knows(SHORT, 0.0)


def run(sampler, **options):
    return lambda: list(sampler(MODEL, noise(2, 1, 28, 28), SHORT, **options))


BAD = {
    "steps 0": (lambda: spaced_timesteps(10, 0), ["steps is 0", "1 … 10"]),
    "steps > T": (lambda: spaced_timesteps(10, 11), ["steps is 11", "1 … 10"]),
    "steps a float": (lambda: spaced_timesteps(10, 5.0), ["steps is 5.0", "whole number"]),
    "steps a bool": (lambda: spaced_timesteps(10, True), ["steps is True", "whole number"]),
    "unknown spacing": (lambda: spaced_timesteps(10, 5, "quadric"), ["'quadric'", "did you mean quadratic?"]),
    "ddim steps > T": (run(ddim, steps=13), ["steps is 13", "1 … 12"]),
    "ancestral steps > T": (run(ancestral, steps=13), ["steps is 13", "1 … 12"]),
    "ddpm in leaps": (run(ddpm, steps=10), ["steps is 10", "all 12 timesteps", "ancestral or ddim"]),
    "v 1.5": (run(ancestral, v=1.5), ["v is 1.5", "[0, 1]"]),
    "v -0.1": (run(ancestral, v=-0.1), ["v is -0.1", "[0, 1]"]),
    "v NaN": (run(ancestral, v=math.nan), ["v is nan", "[0, 1]"]),
    "eta 2": (run(ddim, steps=5, eta=2.0), ["eta is 2.0", "[0, 1]"]),
    "dpm_solver eta -1": (run(dpm_solver, steps=5, eta=-1.0), ["eta is -1.0", "[0, 1]"]),
    "dpm_solver eta NaN": (run(dpm_solver, steps=5, eta=math.nan), ["eta is nan", "[0, 1]"]),
    "eta NaN": (run(ddim, steps=5, eta=math.nan), ["eta is nan", "[0, 1]"]),
    "guidance NaN": (run(ddim, steps=5, y=torch.tensor([1, 2]), guidance_weight=math.nan), ["nan", "finite"]),
    "guidance without labels": (run(ddpm, guidance_weight=2.0), ["2.0", "no labels"]),
    "unknown sampler": (lambda: sample(MODEL, SHORT, 2, sampler="dim"), ["'dim'", "did you mean ddim?", "ddpm"]),
    "no n": (lambda: sample(MODEL, SHORT), ["n is None", "no labels"]),
    "n 0": (lambda: sample(MODEL, SHORT, 0), ["n is 0", "n >= 1"]),
    "n against y": (lambda: sample(MODEL, SHORT, 3, torch.tensor([1, 2])), ["n is 3", "2 labels"]),
    "sample's steps > T": (lambda: sample(MODEL, SHORT, 1, steps=13), ["steps is 13", "1 … 12"]),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_the_value_and_the_range(call, words):
    with refused(words):
        call()
