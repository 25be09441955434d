"""Our training and sampling beside the usual code and two well-known packages: `make bench`.

All in one run, in turns, with the same batch and the same channel widths (32, 64, 128); each as its authors ship it.
The process keeps freed memory (`training.keep_freed_memory`), so all of them gain what our training gains by it.
Compare ratios: they hold when the machine's speed drifts. Writes runs/bench/peers.{json,md,png}.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from usual_code import usual_unet

from ddpm_lib.machine import cpu_name
from ddpm_lib.plotting import COLOURS, new_figure, to_png
from ddpm_lib.training import choose_precision, keep_freed_memory
from ddpm_lib.unet import UNet

BATCH = 128
Predict = Callable[[nn.Module, Tensor, Tensor], Tensor]


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
    )


def lucidrains_unet() -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=32, dim_mults=(1, 2, 4), channels=1)


def plain(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return model(x, t)


def first_output(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return model(x, t).sample


def in_bf16(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(x, t).float()


PEERS: dict[str, tuple[Callable[[], nn.Module], Predict, bool]] = {  # build, call, fused optimiser
    "the usual code": (usual_unet, plain, False),
    "denoising-diffusion-pytorch": (lucidrains_unet, plain, False),
    "diffusers UNet2DModel": (diffusers_unet, first_output, False),
    "ours, fp32": (UNet, plain, True),
}
if choose_precision("auto", torch.device("cpu")) == "bf16":
    PEERS["ours, bf16"] = (UNet, in_bf16, True)
OURS = list(PEERS)[-1]


def training_step(model: nn.Module, predict: Predict, optimizer: torch.optim.Optimizer) -> None:
    x, t, eps = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, 1, 28, 28)
    loss = F.mse_loss(predict(model, x, t), eps)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def sampling_step(model: nn.Module, predict: Predict) -> None:
    predict(model, torch.randn(BATCH, 1, 28, 28), torch.full((BATCH,), 500))


def peak_memory(name: str) -> float:
    """Megabytes that two training steps need beyond the process without the model; in a process of its own."""
    build, predict, fused = PEERS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    for _ in range(2):
        training_step(model, predict, optimizer)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def training_gigaflops(name: str) -> float:
    """Arithmetic of one training step: products and convolutions, forwards and backwards."""
    build, _, _ = PEERS[name]
    predict = first_output if PEERS[name][1] is first_output else plain
    with FlopCounterMode(display=False) as counter:
        loss = predict(build(), torch.randn(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)).square().mean()
        loss.backward()
    return counter.get_total_flops() / 1e9 * BATCH / 2


def matmul_peak(dtype: torch.dtype, size: int = 4096) -> float:
    """GFLOP/s of one large matrix product: what the machine reaches where nothing else is in the way."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / 1e9 / min(seconds)


def main(
    rounds: int = typer.Option(5, help="Rounds; each times every candidate once."), out: Path = Path("runs/bench")
) -> None:
    """Time the candidates in turns and write the table and the plot."""
    # First, while this process is small: a new process inherits the peak of the one that starts it.
    with multiprocessing.get_context("spawn").Pool(1, keep_freed_memory, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(peak_memory, (name,)) for name in PEERS}
    keep_freed_memory()
    candidates = {}
    for name, (build, predict, fused) in PEERS.items():
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
        training_step(model, predict, optimizer)  # warm-up: the first step allocates and chooses kernels
        candidates[name] = (model, predict, optimizer)
    seconds: dict[str, dict[str, list[float]]] = {name: {"train": [], "sample": []} for name in PEERS}
    for done in range(rounds):
        for name, (model, predict, optimizer) in candidates.items():
            start = time.perf_counter()
            training_step(model, predict, optimizer)
            middle = time.perf_counter()
            sampling_step(model, predict)
            seconds[name]["train"].append(middle - start)
            seconds[name]["sample"].append(time.perf_counter() - middle)
        typer.echo(f"round {done + 1} of {rounds}", err=True)
    rows = []
    for name in PEERS:
        ratio = statistics.median(
            theirs / ours for theirs, ours in zip(seconds[name]["train"], seconds[OURS]["train"], strict=True)
        )
        rows.append(
            {
                "code": name,
                "parameters": sum(p.numel() for p in candidates[name][0].parameters()),
                "train_images_per_second": BATCH / statistics.median(seconds[name]["train"]),
                "sampling_images_per_second": BATCH / statistics.median(seconds[name]["sample"]),
                "training_gflops_per_second": training_gigaflops(name) / statistics.median(seconds[name]["train"]),
                "training_memory_mb": memory[name],
                "ours_is_faster_by": ratio,
            }
        )
    peak = {"fp32": matmul_peak(torch.float32)} | (
        {"bf16": matmul_peak(torch.bfloat16)} if OURS == "ours, bf16" else {}
    )
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "peers.json").write_text(
        json.dumps({"machine": machine, "batch": BATCH, "matmul_gflops_per_second": peak, "rows": rows}, indent=1)
    )
    (out / "peers.md").write_text(table(rows, machine, peak))
    (out / "peers.png").write_bytes(plot(rows, machine))
    typer.echo((out / "peers.md").read_text())


def table(rows: list[dict], machine: str, peak: dict[str, float]) -> str:
    lines = [
        f"{machine}; batch {BATCH}; medians of interleaved rounds",
        "",
        "| code | parameters | training, images/s | GFLOP/s | sampling, images/s | training memory, MB | ours trains |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['code']} | {row['parameters']:,} | {row['train_images_per_second']:.0f} |"
        f" {row['training_gflops_per_second']:.0f} |"
        f" {row['sampling_images_per_second']:.0f} | {row['training_memory_mb']:.0f} |"
        f" {row['ours_is_faster_by']:.1f}x as fast |"
        for row in rows
    ]
    peaks = ", ".join(f"{value:,.0f} GFLOP/s in {name}" for name, value in peak.items())
    return "\n".join([*lines, "", f"One product of two 4096 x 4096 matrices reaches {peaks}."]) + "\n"


def plot(rows: list[dict], machine: str) -> bytes:
    figure, axes = new_figure(1, 2, width=9, height=2.8, sharey=True)
    names = [row["code"] for row in rows]
    for ax, key, label in (
        (axes[0, 0], "train_images_per_second", "training, images a second"),
        (axes[0, 1], "sampling_images_per_second", "sampling, images a second through the network"),
    ):
        bars = ax.barh(names, [row[key] for row in rows], color=COLOURS[0])
        ax.bar_label(bars, fmt="%.0f", padding=3)
        ax.set(xlabel=label)
        ax.margins(x=0.12)
        ax.grid(False, axis="y")
        ax.invert_yaxis()
    axes[0, 1].invert_yaxis()
    figure.suptitle(machine, fontsize=9)
    return to_png(figure)


if __name__ == "__main__":
    typer.run(main)
