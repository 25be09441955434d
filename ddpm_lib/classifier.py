"""The judge: a small fixed classifier of Fashion-MNIST, whose features measure how real samples look.

It is trained once (`train_classifier`), shipped with the library, and pinned by hash: numbers judged by
another classifier cannot be compared with ours, so another one is refused.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddpm_lib.checkpoints import content_hash, load_tensors, load_weights
from ddpm_lib.data import Split
from ddpm_lib.errors import CheckpointError, InputError
from ddpm_lib.training import choose_precision

CLASSIFIER_PATH = Path(__file__).parent / "pretrained" / "classifier.safetensors"
CLASSIFIER_SHA256 = "31526e015ce94efcaebef25a177bde6a79dce2757a915130fc9987199dc4bd8a"
FEATURES = 128


class Classifier(nn.Module):
    """Six convolutions; the mean over the picture of the last layer gives 128 features, one linear layer the class."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        widths = (1, 32, 32, 64, 64, 128, FEATURES)
        layers: list[nn.Module] = []
        for index, (c_in, c_out) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            if index in (1, 3):
                layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, num_classes)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """`[B, 1, 28, 28]` in [-1, 1] -> `[B, 128]`."""
        return self.body(images.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 1, 28, 28]` in [-1, 1] -> `[B, 10]` logits."""
        return self.head(self.features(images))


def train_classifier(
    data: Split, epochs: int = 12, batch_size: int = 128, lr: float = 3e-3, seed: int = 0
) -> Classifier:
    """Trains the judge: AdamW, one-cycle learning rate, pictures mirrored and moved by up to two pixels.

    Args:
        data: the training images.
        epochs, batch_size, lr: the recipe; its defaults made the shipped one.
        seed: of the weights and all draws.

    Returns:
        The classifier, in eval mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, fused=True)
    steps = epochs * (len(data.images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    mixed = choose_precision("auto", torch.device("cpu")) == "bf16"
    progress = tqdm(total=steps, desc="classifier", unit="step")
    for _ in range(epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for chosen in order[: steps // epochs * batch_size].split(batch_size):
            images = _augment(data.images[chosen], generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), data.labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
    progress.close()
    return model.eval().requires_grad_(False)


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture mirrored with probability 1/2; the batch moved by up to two pixels."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
    return F.pad(images, (2, 2, 2, 2), value=-1.0)[:, :, down : down + 28, right : right + 28]


@functools.lru_cache(maxsize=1)
def load_classifier() -> Classifier:
    """The shipped classifier, after checking that it is the pinned one.

    Raises:
        CheckpointError: the file is missing, damaged, or another classifier.
    """
    tensors, metadata = load_tensors(CLASSIFIER_PATH)
    digest = content_hash(tensors, metadata)
    if digest != CLASSIFIER_SHA256:
        raise CheckpointError(
            f"{CLASSIFIER_PATH} has hash {digest[:12]}…, pinned is {CLASSIFIER_SHA256[:12]}…; "
            "results judged by another classifier cannot be compared: restore the file that came with the course"
        )
    model = Classifier()
    load_weights(model, tensors, CLASSIFIER_PATH)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def judge(images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """What the shipped classifier sees in images.

    Args:
        images: `[N, 1, 28, 28]` in [-1, 1]; values beyond are cut, as they would be on a screen.
        batch_size: images at once, for memory.

    Returns:
        Features `[N, 128]` and logits `[N, 10]`, on the CPU.

    Raises:
        InputError: the images have another shape, or a pixel is not a finite number.
    """
    if images.ndim != 4 or images.shape[1:] != (1, 28, 28) or len(images) == 0:
        raise InputError(f"images have shape {list(images.shape)}; the classifier takes [N, 1, 28, 28], N >= 1")
    if not bool(torch.isfinite(images).all()):
        raise InputError("an image holds NaN or infinite pixels; the sampler or the model that made it diverged")
    model = load_classifier()
    features = [model.features(part.cpu().float().clamp(-1, 1)) for part in images.split(batch_size)]
    together = torch.cat(features)
    return together, model.head(together)
