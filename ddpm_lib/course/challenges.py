"""The challenge of problem set 4: the best pictures that the trained network gives when it is asked ten times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lib.checks import WrongAnswer

LOOKS = 10
SAMPLES, BATCH = 500, 50
THRESHOLDS = (3.2, 2.2, 1.75, 1.2)  # of the FID; one point for each that it stays below
REAL_STATISTICS = Path(__file__).parents[1] / "pretrained" / "real_statistics.safetensors"

FastSample = Callable[[Callable[[Tensor, int], Tensor], Tensor, Tensor], Tensor]
"""fast_sample(model, x_T, alpha_bars) gives pictures; it calls model(x, t) at most `LOOKS` times."""


def ten_looks(fast_sample: FastSample, seed: int = 1) -> tuple[int, str]:
    """Measures a student's sampler on the averaged weights of the last epoch, all ten labels equally often.

    Args:
        fast_sample: the sampler; it gets `[B, 1, 28, 28]` noise and alpha_bars, `[T]` float64.
        seed: of the noise.

    Returns:
        The points, 0 … 4, and a sentence with the FID.

    Raises:
        WrongAnswer: it asks too often, or does not lead to the picture that a model sees.
    """
    # Before anything heavy is loaded: a sampler that fails here, or was never written, costs no time.
    alpha_bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    _leads_to_what_the_model_sees(fast_sample, alpha_bars)

    from ddpm_lib import pretrained
    from ddpm_lib.training import choose_precision, computing_in

    network, cpu = pretrained.load("cfg_ema"), torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(BATCH) % 10
    parts = []
    with torch.inference_mode(), computing_in(choose_precision("auto", cpu), cpu):
        for _ in range(SAMPLES // BATCH):
            x_T = torch.randn(BATCH, 1, 28, 28, generator=generator)
            model = _counted(lambda x, t: network(x.float(), torch.full((len(x),), int(t)), labels).float())
            parts.append(fast_sample(model, x_T, alpha_bars).float())
    value = fid(torch.cat(parts))
    points = sum(value < threshold for threshold in THRESHOLDS)
    return points, f"FID {value:.2f}: {points} of {len(THRESHOLDS)} points"


def fid(images: Tensor) -> float:
    """The Fréchet distance of images from the 60,000 training images, as `evaluation.evaluate_images` has it.

    The training images' mean and covariance come with the package, so no data set is needed.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from ddpm_lib.checkpoints import load_tensors
    from ddpm_lib.classifier import judge

    real = {name: tensor.numpy() for name, tensor in load_tensors(REAL_STATISTICS)[0].items()}
    distance = fid_statistics_to_metric(fid_features_to_statistics(judge(images)[0]), real, verbose=False)
    return float(distance["frechet_inception_distance"])


def _counted(model: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    count = 0

    def ask(x: Tensor, t: int) -> Tensor:
        nonlocal count
        count += 1
        if count > LOOKS:
            raise WrongAnswer(f"the model is asked more than {LOOKS} times")
        return model(x, t)

    return ask


def _leads_to_what_the_model_sees(fast_sample: FastSample, alpha_bars: Tensor) -> None:
    """A model that believes in one picture, whatever it is shown: every right sampler ends at this picture."""
    picture = torch.linspace(-1, 1, 784).reshape(1, 1, 28, 28)

    def believer(x: Tensor, t: int) -> Tensor:
        alpha_bar = float(alpha_bars[int(t)])
        return (x - alpha_bar**0.5 * picture) / (1 - alpha_bar) ** 0.5

    x_T = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    pictures = fast_sample(_counted(believer), x_T, alpha_bars)
    if not isinstance(pictures, Tensor) or pictures.shape != x_T.shape:
        raise WrongAnswer(f"fast_sample must return pictures of the shape of x_T, {list(x_T.shape)} here")
    gap = float((pictures - picture).abs().max())
    if not gap < 0.02:
        raise WrongAnswer(
            f"a model that sees the same clean picture in everything must lead to that picture; a pixel is {gap:.2g} "
            "away. Does the last step go all the way, to x_0?"
        )
