"""The sliders that sample from a network: denoising (notebook 04), guidance (05), averages (06), race (08).

Each takes its models as arguments and builds one `Explorer`. A step of the sampler is the unit: after each the kernel
hears the reader, after some it shows the x_0 predicted so far, and steps once computed are kept. So a picture sharpens
while one watches, and a drag over positions seen before is immediate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial

import torch
from PIL import Image
from torch import Tensor, nn

from ddpm_lib.films import LOOK, Film, noise, quick, together
from ddpm_lib.frames import Picture, arrows, below, picture, tiles
from ddpm_lib.live import SEEDS, STREAM, Explorer, choice, spread, steppers, stops, whole_slider
from ddpm_lib.plotting import COLOURS
from ddpm_lib.samplers import Sampler, ancestral, dpm_solver, spaced_timesteps
from ddpm_lib.schedules import Schedule
from ddpm_lib.training import generator_for

FILMS = 24  # kept by a widget; 25 steps of ten images are 2 MB
WEIGHTS = [half / 2 for half in range(-2, 17)]  # of guidance
SOLVER = partial(dpm_solver, clip_x_0=True)  # clipped: the model may be half-trained


def denoising(
    model: nn.Module,
    schedule: Schedule,
    y: Tensor | None = None,
    sampler: Sampler = ancestral,
    steps: int = 50,
    n: int = 3,
) -> Explorer:
    """A sampler one step at a time, forward and back: x_t, the predicted eps, the x_0 it implies, the next x.

    Args:
        model: predicts eps.
        schedule: the one it was trained with.
        y: `[n]` labels, or None.
        sampler: with the common signature; `functools.partial` sets its own options.
        steps: how many it takes.
        n: how many pictures, a row each.
    """
    predict = quick(model)

    @lru_cache(maxsize=FILMS)
    def film(seed: int) -> Film:
        x_T = noise(n, seed)
        options = {"steps": steps, "generator": generator_for(seed, STREAM, 1)}
        return Film(x_T, lambda: sampler(predict, x_T, schedule, y, **options))

    def draw(step: int, seed: int) -> Iterator[Picture | None]:
        for index in together([film(seed)], step):
            yield index and still(film(seed), index)

    def still(of: Film, index: int) -> Picture:
        done = of.steps[index - 1]
        columns = torch.stack([of.before(index), done.eps / 3, done.x_0, done.x], dim=1)
        return picture(
            tiles(list(columns), column_labels=["x_t", "predicted ε", "x_0 by it", "next x"], scale=5),
            f"{n} pictures at step {index} of {steps}: x at t = {done.t}, predicted noise, the x_0 it implies, next x.",
            f"step {index} of {steps}: the network looks at t = {done.t} (ε is drawn from -3 to 3)",
        )

    slider = whole_slider("step", 1, steps, max(1, steps // 2))
    controls = {"step": slider, "seed": whole_slider("seed", 0, SEEDS - 1, 0)}
    return Explorer(draw, controls, "step", spread(1, steps, 12, slider.value), [steppers(slider)])


def guidance(model: nn.Module, schedule: Schedule, names: Sequence[str], n: int = 10) -> Explorer:
    """Samples of a class at two guidance weights, from the same noise, and the vectors that guidance adds up.

    The vectors belong to the first picture of the lower row, some steps into its sampling; they start at the
    prediction without label and are seen in the plane in which the labelled predictions differ most from it; a pale
    line leads on to the largest weight.

    Args:
        model: a conditional network.
        schedule: the one it was trained with.
        names: of all its classes.
        n: samples in a row.
    """
    predict = quick(model)

    @lru_cache(maxsize=FILMS)
    def film(label: int, w: float, seed: int, steps: int) -> Film:
        x_T, y = noise(n, seed), torch.full((n,), label)
        return Film(x_T, lambda: SOLVER(predict, x_T, schedule, y, w, steps))

    def vector_step(steps: int) -> int:
        return min(LOOK, steps - 1)  # ready at the first look

    @lru_cache(maxsize=FILMS)
    def vectors(label: int, w: float, seed: int, steps: int) -> Tensor:
        """eps(y) - eps of every class, in the plane: `[classes, 2]`; that of `label` points up and to the right."""
        index = vector_step(steps)
        t = spaced_timesteps(schedule.T, steps, "quadratic")[index]
        count = len(names) + 1
        x_t = film(label, w, seed, steps).before(index + 1)[:1].expand(count, -1, -1, -1)
        y = torch.tensor([*range(len(names)), 0])
        with torch.no_grad():
            eps = predict(x_t, torch.full((count,), t), y, torch.arange(count) == len(names)).flatten(1)
        differences = eps[:-1] - eps[-1]
        plane = torch.linalg.svd(differences, full_matrices=False).Vh[:2]
        flat = differences @ plane.T
        return flat * torch.where(flat[label] < 0, -1.0, 1.0)

    @lru_cache(maxsize=FILMS)
    def drawn(label: int, w: float, other_w: float, seed: int, steps: int) -> Image.Image:
        flat = vectors(label, other_w, seed, steps)
        others = [(one, "", "#999999") for one in flat.tolist()]
        # The way of the guided prediction, drawn to its end: so the scale is the same at every weight.
        way = (((1 + max(WEIGHTS)) * flat[label]).tolist(), "", "#f3cfb3")
        guided = (((1 + w) * flat[label]).tolist(), f"ε~ at w = {w:g}", COLOURS[1])
        conditional = (flat[label].tolist(), f"ε({names[label]})", COLOURS[0])
        return arrows([way, *others, guided, conditional], "ε without label", height=260)

    def draw(label: int, w: float, other_w: float, seed: int, steps: int) -> Iterator[Picture | None]:
        upper, lower = film(label, w, seed, steps), film(label, other_w, seed, steps)
        step = vector_step(steps) + 1
        for index in together([upper, lower], steps):
            if index is None:
                yield None
                continue
            rows = [each.steps[index - 1].x_0 for each in (upper, lower)]
            samples = tiles(rows, row_labels=[f"w = {w:g}", f"w = {other_w:g}"], scale=2)
            yield picture(
                below(samples, drawn(label, w, other_w, seed, steps)),
                f"{n} samples of class {names[label]} at guidance weight {w:g}, and below at {other_w:g} from the same "
                f"noise. Arrows from the unconditional prediction to that of each class, and to the guided one.",
                f"{names[label]}: same noise in both rows; the arrows: first picture of the lower one, step {step}",
            )

    controls = {
        "label": stops("class", [(name, index) for index, name in enumerate(names)], len(names) - 1),
        "w": stops("w", WEIGHTS, 2.0),
        "other_w": stops("compare with w", WEIGHTS, 0.0),
        "seed": whole_slider("seed", 0, SEEDS - 1, 0),
        "steps": whole_slider("steps", 2, 25, 6),
    }
    return Explorer(draw, controls, "w", [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0])


def averages(
    raw: Callable[[int], nn.Module],
    averaged: Mapping[str, Callable[[int], nn.Module]],
    moments: Sequence[int],
    schedule: Schedule,
    y: Tensor | None = None,
    guidance_weight: float = 0.0,
    steps: int = 8,
    n: int = 10,
    unit: str = "epoch",
) -> Explorer:
    """Raw and averaged weights at a moment of the training, sampled from the same noise.

    Args:
        raw: moment -> the network with the weights it had then.
        averaged: by name (a beta, a width), the same for averages.
        moments: to choose from, rising: epochs, or training steps.
        schedule: the one they were trained with.
        y: `[n]` labels, or None.
        guidance_weight: w.
        steps: of the sampler.
        n: samples in a row.
        unit: what the moments count.
    """
    networks = {"raw": raw, **averaged}

    @lru_cache(maxsize=FILMS)
    def film(name: str, moment: int, seed: int) -> Film:
        predict, x_T = quick(networks[name](moment)), noise(n, seed)
        return Film(x_T, lambda: SOLVER(predict, x_T, schedule, y, guidance_weight, steps))

    def draw(moment: int, average: str, seed: int) -> Iterator[Picture | None]:
        films = [film("raw", moment, seed), film(average, moment, seed)]
        for index in together(films, steps):
            yield index and picture(
                tiles([each.steps[index - 1].x_0 for each in films], row_labels=["raw", average], scale=2),
                f"{n} samples at {unit} {moment}: with the raw weights, and below with the average {average}.",
                f"{unit} {moment}: raw weights above, {average} below, same noise",
            )

    controls = {
        "moment": stops(unit, moments, moments[-1]),
        "average": choice("average", list(averaged), next(iter(averaged))),
        "seed": whole_slider("seed", 0, SEEDS - 1, 0),
    }
    return Explorer(draw, controls, "moment", list(moments))


def race(
    model: nn.Module,
    schedule: Schedule,
    samplers: Mapping[str, Sampler],
    y: Tensor | None = None,
    guidance_weight: float = 0.0,
    steps: int = 12,
    n: int = 10,
) -> Explorer:
    """Samplers side by side from the same noise, network evaluation by network evaluation: the x_0 that each sees.

    Args:
        model: predicts eps.
        schedule: the one it was trained with.
        samplers: by name; `functools.partial` sets their own options.
        y: `[n]` labels, or None.
        guidance_weight: w.
        steps: how many evaluations each may spend.
        n: pictures in a row.
    """
    predict = quick(model)

    @lru_cache(maxsize=FILMS)
    def film(name: str, seed: int) -> Film:
        x_T = noise(n, seed)
        options = {"steps": steps, "generator": generator_for(seed, STREAM, 1)}
        return Film(x_T, lambda: samplers[name](predict, x_T, schedule, y, guidance_weight, **options))

    def draw(step: int, seed: int) -> Iterator[Picture | None]:
        films = [film(name, seed) for name in samplers]
        for index in together(films, step):
            yield index and still(films, index)

    def still(films: Sequence[Film], index: int) -> Picture:
        now = [each.steps[index - 1] for each in films]
        labels = [f"{name}, t = {one.t}" for name, one in zip(samplers, now, strict=True)]
        return picture(
            tiles([one.x_0 for one in now], row_labels=labels, scale=2),
            f"The x_0 of {n} pictures as {', '.join(samplers)} see it after {index} of {steps} network evaluations.",
            f"{index} of {steps} network evaluations, same noise",
        )

    slider = whole_slider("step", 1, steps, steps)
    controls = {"step": slider, "seed": whole_slider("seed", 0, SEEDS - 1, 0)}
    return Explorer(draw, controls, "step", spread(1, steps, 12, steps), [steppers(slider)])
