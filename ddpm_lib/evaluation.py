"""How good are the samples? FID, KID, precision, recall and conditional accuracy, each with its interval.

All on the features of one fixed classifier (`classifier.py`): the numbers compare models of this course with each
other. They are not on the scale of Inception-FIDs in papers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from ddpm_lib.checkpoints import load_tensors, save_tensors
from ddpm_lib.classifier import CLASSIFIER_SHA256, judge
from ddpm_lib.data import load_fashion_mnist
from ddpm_lib.errors import InputError
from ddpm_lib.files import cache_dir, locked
from ddpm_lib.guidance import Autoguided, GuidanceWeight
from ddpm_lib.samplers import SampleStep, sample
from ddpm_lib.schedules import Schedule
from ddpm_lib.training import choose_precision, computing_in
from ddpm_lib.unet import UNet

MINIMUM = 100  # images that can be called a distribution
BATCH = 50  # samples at once: their activations stay in a processor's cache
BLOCKS = 10
T_QUANTILE = 2.262  # Student's t, 97.5 %, BLOCKS - 1 degrees of freedom
NEIGHBOURS = 3  # Kynkäänniemi et al. 2019
REFERENCE = 2000  # real images for KID, precision and recall, whose cost grows with the square


@dataclass(frozen=True)
class Interval:
    """A measured value and its 95 % interval over draws of samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """A result, with all that is needed to get it again."""

    fid: Interval  # Fréchet distance to the 60,000 training images; 0 is the same Gaussian. Biased upwards, less with n
    kid: Interval  # squared kernel distance, unbiased: around 0 for the same distribution
    precision: Interval  # share of samples that lie among real images: realism
    recall: Interval  # share of real images that lie among samples: variety
    accuracy: Interval | None  # share of samples that the classifier takes for their label; None without labels
    n: int
    evaluator: str  # the classifier's hash
    sampler: str  # "real" for real images
    steps: int
    guidance_weight: float | None  # None: a function of the timestep
    options: dict[str, Any]  # of the sampler, e.g. {"clip_x_0": True}
    computed_in: str  # the network, while it sampled: "fp32" or "bf16"
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def evaluation_from_dict(values: Mapping[str, Any]) -> Evaluation:
    """The inverse of `Evaluation.to_dict`, for what was kept as JSON. Raises KeyError, TypeError for other values."""
    intervals = [field.name for field in fields(Evaluation) if "Interval" in str(field.type)]
    return Evaluation(**{**values, **{name: values[name] and Interval(**values[name]) for name in intervals}})


def evaluate_images(images: Tensor, y: Tensor | None = None, **provenance: Any) -> Evaluation:
    """Judges images against the training set.

    Args:
        images: `[N, 1, 28, 28]` in [-1, 1], N >= 100.
        y: `[N]` the labels they were made for, or None.
        provenance: sampler, steps, guidance_weight, options, computed_in, seed: recorded as they are.

    Raises:
        InputError: too few images, wrong shapes, or pixels that are not finite.
    """
    if len(images) < MINIMUM:
        raise InputError(f"{len(images)} images; a distribution needs at least {MINIMUM}, better 1,000 or more")
    features, logits = judge(images)
    real = real_features()
    chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[: min(REFERENCE, len(real))]
    few_real = real[chosen]

    def measure(kept: Tensor) -> dict[str, float]:
        return _distances(features[kept], few_real, _real_statistics()) | (
            {} if y is None else {"accuracy": float((logits[kept].argmax(1) == y[kept].cpu()).float().mean())}
        )

    # On small matrices NumPy's threads wait for each other: beside another process, FID's eigenvalues took 0.2 to 0.8 s
    # on two threads of two cores, and 6 ms on one.
    with threadpool_limits(1, "blas"):
        intervals = jackknife(measure, len(images))
    defaults = {"sampler": "real", "steps": 0, "guidance_weight": 0.0, "options": {}, "computed_in": "fp32", "seed": 0}
    return Evaluation(
        **({"accuracy": None} | intervals), n=len(images), evaluator=CLASSIFIER_SHA256, **(defaults | provenance)
    )


def evaluate_model(
    model: UNet | Autoguided,
    schedule: Schedule,
    n: int = 1000,
    guidance_weight: GuidanceWeight = 0.0,
    sampler: str = "dpm_solver",
    steps: int = 10,
    seed: int = 0,
    precision: str = "auto",
    callback: Callable[[SampleStep], None] | None = None,
    **options: Any,
) -> tuple[Evaluation, Tensor]:
    """Samples from a model and judges the samples; all ten labels equally often where it is conditional.

    Args:
        model: the network.
        schedule: the one it was trained with.
        n: samples, at least 100.
        guidance_weight: w, a number or a function of t.
        sampler, steps: see `samplers.sample`.
        seed: of all noise. Two models with the same seed start from the same noise, sample by sample.
        precision: of the network's products: "auto", "fp32" or "bf16"; see `training.choose_precision`.
        callback: called after each sampler step, for progress.
        options: of the sampler. clip_x_0 is True if it is not given (early weights need it), except for "ddpm", which
            has no options.

    Returns:
        The evaluation, and the samples it judged, `[n, 1, 28, 28]` on the CPU.

    Raises:
        InputError: fewer than 100 samples, or as in `samplers.sample`.
    """
    if n < MINIMUM:
        raise InputError(f"{n} samples; a distribution needs at least {MINIMUM}, better 1,000 or more")
    device = next(model.parameters()).device
    precision = choose_precision(precision, device)
    y = None if model.num_classes is None else torch.arange(n) % model.num_classes
    if sampler != "ddpm":
        options.setdefault("clip_x_0", True)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    with computing_in(precision, device):
        for start in range(0, n, BATCH):
            size = min(BATCH, n - start)
            labels = None if y is None else y[start : start + size]
            parts.append(
                sample(model, schedule, size, labels, guidance_weight, sampler, steps, generator, callback, **options)
            )
    images = torch.cat(parts).float().cpu()
    w = None if callable(guidance_weight) else guidance_weight
    how = {"sampler": sampler, "steps": steps, "guidance_weight": w, "seed": seed}
    how |= {"options": options, "computed_in": precision}
    return evaluate_images(images, y, **how), images


def noise_floor(n: int = 1000, seed: int = 0) -> Evaluation:
    """What a perfect model would score: n real test images, which no model has seen, judged like samples."""
    test = load_fashion_mnist("test")
    chosen = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(seed))[:n]
    return evaluate_images(test.images[chosen], test.labels[chosen], seed=seed)


@functools.lru_cache
def real_features() -> Tensor:
    """`[60000, 128]`: the classifier's features of the training images; computed once, then cached."""
    path = cache_dir() / "features" / f"train-{CLASSIFIER_SHA256[:16]}.safetensors"
    with locked(path):
        if path.exists():
            return load_tensors(path)[0]["features"]
        features, _ = judge(load_fashion_mnist("train").images)
        save_tensors(path, {"features": features}, {"kind": "features", "of": "train", "by": CLASSIFIER_SHA256})
    return features


@functools.lru_cache
def _real_statistics() -> Mapping[str, Any]:
    return fid_features_to_statistics(real_features())


def jackknife(measure: Callable[[Tensor], Mapping[str, float]], n: int, blocks: int = BLOCKS) -> dict[str, Interval]:
    """Values on all n samples with 95 % intervals, by leaving out one block of samples after the other.

    The delete-a-block jackknife (Künsch 1989; Shao & Tu 1995, chapter 2): all leave-outs have the same size, so a bias
    that depends on n, as FID's, does not widen the interval; and no further samples are needed.

    Args:
        measure: indices of the samples to use -> numbers by name.
        n: how many samples there are.
        blocks: how many blocks; the interval is Student's, with blocks - 1 degrees of freedom.
    """
    whole = measure(torch.arange(n))
    block = torch.arange(n) * blocks // n  # in order, so each block holds all labels
    without = [measure(torch.nonzero(block != index).squeeze(1)) for index in range(blocks)]
    intervals = {}
    for name, value in whole.items():
        values = torch.tensor([result[name] for result in without], dtype=torch.float64)
        spread = math.sqrt((blocks - 1) * float(values.var(correction=0)))
        intervals[name] = Interval(value, value - T_QUANTILE * spread, value + T_QUANTILE * spread)
    return intervals


def _distances(features: Tensor, few_real: Tensor, real_statistics: Mapping[str, Any]) -> dict[str, float]:
    fid = fid_statistics_to_metric(fid_features_to_statistics(features), real_statistics, verbose=False)
    size = min(len(features), len(few_real))  # one subset with all: random ones would add noise to the interval
    kid = kid_features_to_metric(
        features[:size], few_real[:size], kid_subsets=1, kid_subset_size=size, rng_seed=0, verbose=False
    )
    prc = prc_features_to_metric(features, few_real, prc_neighborhood=NEIGHBOURS, verbose=False)
    return {
        "fid": float(fid["frechet_inception_distance"]),
        "kid": float(kid["kernel_inception_distance_mean"]),
        "precision": float(prc["precision"]),
        "recall": float(prc["recall"]),
    }
