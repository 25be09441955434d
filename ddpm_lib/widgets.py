"""The sliders of notebooks 01 and 02: noising, schedule, embedding. Those that need a network are in `model_widgets`.

Each function builds one `Explorer` from what it is given. Its pictures depend on the controls' values alone: the same
seed gives the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpm_lib.diffusion import q_sample
from ddpm_lib.embedding import timestep_embedding
from ddpm_lib.frames import Picture, below, beside, chart, picture, tiles
from ddpm_lib.live import SEEDS, STREAM, Explorer, choice, player, spread, stops, whole_slider
from ddpm_lib.plotting import COLOURS, draw_curves, new_figure
from ddpm_lib.schedules import Schedule, cosine_schedule, linear_schedule
from ddpm_lib.training import generator_for

BETAS = (1e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.15, 0.18, 0.2, 0.3, 0.5, 1.0)


def noising(images: Tensor, names: Sequence[str], schedule: Schedule, t: int = 300) -> Explorer:
    """A garment and a timestep: x_t, its pixels' histogram, and the two weights of the closed form.

    Args:
        images: `[N, 1, 28, 28]` to choose from, in [-1, 1].
        names: one for each.
        schedule: the noise schedule.
        t: where the slider starts.
    """
    signal, noise = schedule.alpha_bars.sqrt(), (1 - schedule.alpha_bars).sqrt()
    weights = {"signal": (range(schedule.T), signal), "noise": (range(schedule.T), noise)}

    def draw(image: int, t: int, seed: int) -> Iterator[Picture]:
        eps = torch.randn(images[image].shape, generator=generator_for(seed, STREAM))[None]
        x_t = q_sample(images[image : image + 1], torch.tensor([t]), eps, schedule)
        figure, axes = new_figure(1, 2, width=5.6, height=2.1)
        counts = torch.histc(x_t.clamp(-3, 3), 60, -3, 3) / x_t.numel() / 0.1
        axes[0, 0].stairs(counts, torch.linspace(-3, 3, 61), fill=True, alpha=0.6)
        grid = torch.linspace(-3, 3, 121)
        axes[0, 0].plot(grid, torch.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi), "--", color="black", linewidth=1)
        axes[0, 0].set(title="pixels of $x_t$, dashed: $N(0, 1)$", yticks=[], ylim=(0, 1.5))
        draw_curves(axes[0, 1], weights, "", "", "the two weights over $t$")
        axes[0, 1].axvline(t, color="black", linewidth=1)
        pair = tiles([torch.cat([images[image : image + 1], x_t])], column_labels=["x_0", f"x_{t}"], scale=5)
        yield picture(
            beside(pair, chart(figure)),
            f"{names[image]}, clean and at t = {t}; the histogram of its pixels; signal and noise weight over t.",
            f"t = {t}: {signal[t]:.3f} of the picture and {noise[t]:.3f} of unit noise",
        )

    slider = whole_slider("t", 0, schedule.T - 1, t)
    controls = {
        "image": stops("garment", [(name, index) for index, name in enumerate(names)], 0),
        "t": slider,
        "seed": whole_slider("seed", 0, SEEDS - 1, 0),
    }
    play = player(slider, step=max(1, schedule.T // 100), seconds=0.15)
    return Explorer(draw, controls, "t", spread(0, schedule.T - 1, 14, t), [play])


def schedules(images: Tensor, T: int = 1000) -> Explorer:
    """A schedule's formula and its values: alpha_bars, log-SNR, and what they do to images along the chain.

    Args:
        images: `[N, 1, 28, 28]`, a row of pictures for each.
        T: where its slider starts.
    """
    eps = torch.randn(images.shape, generator=generator_for(0, STREAM))
    reference = linear_schedule()
    parts = torch.linspace(0, 1, 8, dtype=torch.float64)

    def draw(kind: str, T: int, beta_start: float, beta_end: float) -> Iterator[Picture]:
        chosen = cosine_schedule(T) if kind == "cosine" else linear_schedule(T, beta_start, beta_end)
        times = (parts * (T - 1)).round().long()
        strip = [
            torch.cat([q_sample(x_0[None], t[None], noise[None], chosen) for t in times])
            for x_0, noise in zip(images, eps, strict=True)
        ]
        figure, axes = new_figure(1, 2, width=8.6, height=2.3)
        lines = {"chosen": chosen, "linear, T = 1000": reference}
        for ax, name, title in ((axes[0, 0], "alpha_bars", r"$\bar\alpha_t$"), (axes[0, 1], "log_snr", "log-SNR")):
            data = {
                label: (torch.linspace(0, 1, one.T), getattr(one, name).clamp(min=-20)) for label, one in lines.items()
            }
            draw_curves(ax, data, "$t / T$", "", title)
        end = float(chosen.alpha_bars[-1])
        yield picture(
            below(chart(figure), tiles(strip, column_labels=[f"t = {t}" for t in times], scale=3)),
            f"alpha_bar and log-SNR over t of the chosen schedule ({kind}) and of the report's; below, noised images.",
            f"at the end alpha_bar = {end:.2g}, signal weight {math.sqrt(end):.3f}; last beta {chosen.betas[-1]:.2g}",
        )

    kind = choice("schedule", ["linear", "cosine"], "linear")
    betas = {"beta_start": stops("beta_start", BETAS[:-5], 1e-4), "beta_end": stops("beta_end", BETAS[4:], 0.02)}
    kind.observe(lambda change: [setattr(beta, "disabled", change.new == "cosine") for beta in betas.values()], "value")
    controls = {"kind": kind, "T": whole_slider("T", 10, 2000, T, 10), **betas}
    return Explorer(draw, controls, "T", [10, 20, 50, 100, 200, 300, 500, 700, 1000, 1500, 2000])


def embedding(T: int = 1000, t: int = 300, width: int = 128) -> Explorer:
    """A timestep's embedding: the vector, and how far it is from all the others."""

    def draw(t: int, width: int) -> Iterator[Picture]:
        all_times = timestep_embedding(torch.arange(T), width)
        vector, half = all_times[t], width // 2
        distance = torch.linalg.vector_norm(all_times - vector, dim=1)
        figure, axes = new_figure(1, 2, width=8.6, height=2.5)
        for start, name, colour in ((0, "sines", COLOURS[0]), (half, "cosines", COLOURS[1])):
            places = torch.arange(start, start + half + 1)
            axes[0, 0].stairs(vector[places[:-1]], places, fill=True, color=colour, label=name)
        axes[0, 0].set(xlabel="place in the vector", title=f"the embedding of $t$ = {t}", ylim=(-1.1, 1.6))
        axes[0, 0].legend(frameon=False, loc="upper center", ncols=2)
        draw_curves(axes[0, 1], {"": (range(T), distance)}, "another timestep", "", f"its distance to $t$ = {t}")
        axes[0, 1].axvline(t, color="black", linewidth=1)
        near, far = distance[t + 1 if t + 1 < T else t - 1], distance.max()
        yield picture(
            chart(figure),
            f"The embedding of t = {t} in {width} numbers, and its distance to the embedding of every other timestep.",
            f"t = {t} in {width} numbers: distance to the next timestep {near:.2f}, to the farthest {far:.2f}",
        )

    widths = stops("width", [2, 4, 8, 16, 32, 64, 128, 256], width)
    controls = {"t": whole_slider("t", 0, T - 1, t), "width": widths}
    return Explorer(draw, controls, "t", spread(0, T - 1, 12, t))
