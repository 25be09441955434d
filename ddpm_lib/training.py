"""The training loop: Algorithm 1, on one CPU, one GPU or several processes, resumable exactly.

All randomness of a step is a function of the config's seed and the step's number (`draw_batch`). So a run does
not depend on where it was interrupted, nor on how many processes share its batches.
"""

from __future__ import annotations

import ctypes
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from ddpm_lib.config import Config
from ddpm_lib.data import Split
from ddpm_lib.diffusion import denoising_loss
from ddpm_lib.ema import EMA, PowerEMA
from ddpm_lib.errors import ConfigError, InputError, TrainingError
from ddpm_lib.guidance import drop_labels
from ddpm_lib.schedules import Schedule, make_schedule
from ddpm_lib.unet import UNet

POWER_EMA_WIDTHS = (0.05, 0.10)  # the pair that Karras et al. keep; every width between can be rebuilt


@dataclass
class TrainingState:
    """Everything that a step changes, and what it reads."""

    config: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    averages: dict[str, EMA]  # "ema", and "power_0.05", "power_0.10" where the config asks for them
    accelerator: Accelerator
    schedule: Schedule
    total_steps: int
    step: int = 0  # training steps done

    @property
    def raw_model(self) -> UNet:
        """The network itself, without the wrapper for several processes. It still computes in the run's precision."""
        return self.accelerator.unwrap_model(self.model)


@dataclass(frozen=True)
class StepReport:
    """What a training step tells the caller."""

    step: int  # steps done, from 1
    epoch: float  # epochs done, e.g. 0.5
    loss: float  # of this step's batch, over all processes
    lr: float
    images_per_second: float  # of this step


@dataclass(frozen=True, eq=False)
class Batch:
    """The draws of one step."""

    x_0: Tensor  # [B, 1, 28, 28] in [-1, 1]
    y: Tensor | None  # [B] labels; None when training is unconditional
    t: Tensor  # [B] timesteps
    eps: Tensor  # [B, 1, 28, 28]
    drop: Tensor | None = field(default=None)  # [B] bool, True where the label is withheld


def generator_for(seed: int, *purpose: int) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for: (stream, number of the epoch or step)."""
    state = np.random.SeedSequence((seed, *purpose)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@functools.lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """`[n]`: the order in which an epoch (from 0) visits the images."""
    return torch.randperm(n, generator=generator_for(seed, 0, epoch))


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Full batches in an epoch; what is left over waits for the next epoch's order. Raises ConfigError if none."""
    if n < batch_size:
        raise ConfigError(f"batch_size is {batch_size}, but there are only {n} images; take at most {n}")
    return n // batch_size


def draw_batch(config: Config, data: Split, step: int) -> Batch:
    """The draws of training step `step` (from 0): images, then t, eps and dropped labels.

    Args:
        config: gives batch size, T, drop probability and seed.
        data: all images and labels, on any device.
        step: how many steps are done before this one.
    """
    epoch, position = divmod(step, steps_per_epoch(len(data.images), config.batch_size))
    order = epoch_order(len(data.images), config.seed, epoch)
    chosen = order[position * config.batch_size : (position + 1) * config.batch_size].to(data.images.device)
    x_0 = data.images[chosen]
    generator = generator_for(config.seed, 1, step)
    t = torch.randint(0, config.T, (config.batch_size,), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    if not config.conditional:
        return Batch(x_0, None, t, eps)
    drop = drop_labels(config.batch_size, config.drop_probability, generator)
    return Batch(x_0, data.labels[chosen], t, eps, drop)


def learning_rate(config: Config, step: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0) of `total_steps`.

    "constant": lr. "one_cycle": from lr/25 up to lr over the first 30 %, then down to lr/250,000, both along half a
    cosine (Smith & Topin 2018; PyTorch's OneCycleLR with its defaults).
    """
    if config.lr_schedule == "constant":
        return config.lr
    low, peak, final = config.lr / 25, config.lr, config.lr / 25e4
    turn, last = 0.3 * total_steps - 1, total_steps - 1
    if step <= turn:
        start, end, progress = low, peak, step / turn
    else:
        start, end, progress = peak, final, (step - turn) / (last - turn)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def choose_precision(requested: str, device: torch.device) -> str:
    """Which number format trains fastest without harm: "fp32", "bf16" or "fp16".

    bf16 where the hardware multiplies it natively (CPUs with AMX or AVX512-bf16, GPUs since Ampere), fp16 on older
    CUDA GPUs, else fp32. Anything but "auto" is taken as it is.

    Raises:
        ConfigError: fp16 is requested without a CUDA GPU: Accelerate would compute in fp32 and not say so.
    """
    if requested == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision is 'fp16' on the device {device}; it needs a CUDA GPU: take auto, bf16 or fp32")
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        capabilities = torch.cpu.get_capabilities()
        if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"):
            return "bf16"
    return "fp32"


def keep_freed_memory() -> bool:
    """Lets the C library keep freed memory for the next training step, instead of giving it back to the system.

    A step frees large blocks and asks for the same sizes again. glibc by default returns them to Linux, which then
    clears and maps the pages anew: measured on a Xeon with batches of 128, 52,000 page faults a step and a tenth of
    the time (230 images a second against 254 to 260). The price: the process keeps its peak of memory to its end.
    Returns whether it took effect: only glibc knows these settings, elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have no mallopt; Windows no such way to ask for it
        return False
    return bool(mallopt(-4, 0) and mallopt(-1, 2**31 - 1))  # M_MMAP_MAX and M_TRIM_THRESHOLD in malloc.h


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network computes in a format that `choose_precision` gave; the weights stay fp32."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def new_state(config: Config, images: int) -> TrainingState:
    """A run before its first step: seeded weights, optimiser, averages, on the device Accelerate finds.

    Args:
        config: the run.
        images: how many training images there are.

    Raises:
        ConfigError: the batch size does not fit the images or the number of processes.
    """
    total_steps = max(1, round(config.epochs * steps_per_epoch(images, config.batch_size)))
    keep_freed_memory()
    AcceleratorState._reset_state()  # otherwise a notebook's second run would be bound to the first one's precision
    device = Accelerator().device
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(p := choose_precision(config.precision, device), p))
    if config.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"batch_size is {config.batch_size}, shared by {accelerator.num_processes} processes; it must be a multiple"
        )
    with torch.random.fork_rng(devices=[]):  # the caller's global generator stays as it was
        torch.manual_seed(config.seed)
        model = UNet(num_classes=10 if config.conditional else None, head_width=config.head_width)
    model = model.to(accelerator.device)
    averages = {"ema": EMA(model, config.ema_beta, config.ema_start)}
    if config.power_emas:
        averages |= {f"power_{width:.2f}": PowerEMA(model, width) for width in POWER_EMA_WIDTHS}
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=accelerator.device.type in ("cpu", "cuda"))
    model, optimizer = accelerator.prepare(model, optimizer)
    return TrainingState(config, model, optimizer, averages, accelerator, make_schedule(config), total_steps)


def train(state: TrainingState, data: Split, until: int | None = None) -> Iterator[StepReport]:
    """Algorithm 1: trains in place, from the state's step to `until`, and yields a report after each step.

    Args:
        state: from `new_state` or a checkpoint.
        data: the training images; moved to the device once, if they are not there.
        until: stop when this many steps are done; None: at the end of the run.

    Raises:
        InputError: until is beyond the run's end.
        TrainingError: the loss is NaN or infinite. The state then holds the weights before that step.
    """
    until = state.total_steps if until is None else until
    if until > state.total_steps:
        raise InputError(f"until is {until}, but the run has {state.total_steps} steps; raise epochs instead")
    device = state.accelerator.device
    data = Split(data.images.to(device), data.labels.to(device))
    per_epoch = steps_per_epoch(len(data.images), state.config.batch_size)
    while state.step < until:
        started = time.perf_counter()
        lr = learning_rate(state.config, state.step, state.total_steps)
        for param_group in state.optimizer.param_groups:
            param_group["lr"] = lr
        batch = _own_share(draw_batch(state.config, data, state.step), state.accelerator)
        loss = denoising_loss(state.model, batch.x_0, batch.t, batch.eps, state.schedule, batch.y, batch.drop)
        value = float(state.accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {state.step + 1} (lr {lr:.2g}); lower lr, or set precision to fp32"
            )
        state.accelerator.backward(loss)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        for average in state.averages.values():
            average.update(state.raw_model, state.step)
        seconds = time.perf_counter() - started
        yield StepReport(state.step, state.step / per_epoch, value, lr, state.config.batch_size / seconds)


def _own_share(batch: Batch, accelerator: Accelerator) -> Batch:
    """This process's part of the joint batch, on its device."""
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    size = len(batch.t) // world
    own = slice(rank * size, (rank + 1) * size)

    def share(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[own].to(device, non_blocking=True)

    return Batch(*(share(value) for value in (batch.x_0, batch.y, batch.t, batch.eps, batch.drop)))
