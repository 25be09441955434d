"""What the challenges share: the trained network, and the Fréchet distance of the pictures that it gives.

Grading a hundred submissions has to be quick: 200 samples, few evaluations, and thresholds far from what the well-known
answers reach (`tests/assignments/test_challenge_ps4.py` and its neighbours measure these).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ddpm_lib.unet import UNet

SAMPLES, BATCH = 200, 50
LABELS = torch.arange(BATCH) % 10
PRETRAINED = Path(__file__).parents[2] / "pretrained"
WEIGHTS = PRETRAINED / "cfg_ema_epoch_20.safetensors"
REAL_STATISTICS = PRETRAINED / "real_statistics.safetensors"


@functools.cache
def trained_network() -> UNet:
    """What `pretrained.load("cfg_ema")` gives, without importing all that the course can draw and measure."""
    from ddpm_lib.checkpoints import load_tensors
    from ddpm_lib.config import config_from_dict
    from ddpm_lib.run_files import frozen_network

    tensors, metadata = load_tensors(WEIGHTS)
    return frozen_network(config_from_dict(metadata["config"]), tensors, WEIGHTS)


def measured(draw: Callable[[Tensor], Tensor], thresholds: Sequence[float], seed: int) -> tuple[int, str]:
    """Points for pictures of all ten labels, equally often.

    Args:
        draw: gives pictures for `[BATCH, 1, 28, 28]` noise; their labels are `LABELS`.
        thresholds: of the FID, falling; one point for each that it stays below.
        seed: of the noise.

    Returns:
        The points, and a sentence with the FID.
    """
    from ddpm_lib.training import choose_precision, computing_in

    generator, cpu = torch.Generator().manual_seed(seed), torch.device("cpu")
    with torch.inference_mode(), computing_in(choose_precision("auto", cpu), cpu):
        noises = (torch.randn(BATCH, 1, 28, 28, generator=generator) for _ in range(SAMPLES // BATCH))
        images = torch.cat([draw(x_T).float() for x_T in noises])
    value = fid(images)
    points = sum(value < threshold for threshold in thresholds)
    return points, f"FID {value:.2f}: {points} of {len(thresholds)} points"


def fid(images: Tensor) -> float:
    """The Fréchet distance of images from the 60,000 training images, as `evaluation.evaluate_images` has it.

    The training images' mean and covariance come with the package, so no data set is needed; and what is imported here
    takes a tenth of the time that `evaluation` does.
    """
    from ddpm_lib.checkpoints import load_tensors
    from ddpm_lib.classifier import judge

    real = {name: tensor.double() for name, tensor in load_tensors(REAL_STATISTICS)[0].items()}
    features = judge(images)[0].double()
    covariance = features.T.cov()
    values, vectors = torch.linalg.eigh(real["sigma"])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # tr sqrt(A B) is the sum of the roots of the eigenvalues of sqrt(A) B sqrt(A), which is symmetric.
    shared = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
    gap = (features.mean(dim=0) - real["mu"]).square().sum()
    return float(gap + real["sigma"].trace() + covariance.trace() - 2 * shared)
