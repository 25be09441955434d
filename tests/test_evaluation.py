"""The evaluator: it ranks what must be worse as worse, its intervals cover, and it refuses what it cannot judge."""

from __future__ import annotations

import pytest
import torch

from ddpm_lib.classifier import FEATURES, judge, load_classifier
from ddpm_lib.data import load_fashion_mnist
from ddpm_lib.errors import CheckpointError, InputError
from ddpm_lib.evaluation import evaluate_images, evaluate_model, jackknife, noise_floor
from ddpm_lib.schedules import linear_schedule
from ddpm_lib.unet import UNet


@pytest.fixture(scope="module")
def test_split():
    return load_fashion_mnist("test")


@pytest.fixture(scope="module")
def floor():
    return noise_floor(500)


def test_the_shipped_classifier_reaches_93_percent(test_split):
    _, logits = judge(test_split.images)
    assert float((logits.argmax(1) == test_split.labels).float().mean()) >= 0.93


def test_another_classifier_is_refused(monkeypatch):
    load_classifier.cache_clear()
    monkeypatch.setattr("ddpm_lib.classifier.CLASSIFIER_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="restore the file"):
        load_classifier()
    load_classifier.cache_clear()


def test_real_images_score_near_zero_and_noise_far_away(floor):
    noise = evaluate_images(torch.randn(500, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert floor.fid.value < 1
    assert noise.fid.value > 20 * floor.fid.value
    assert noise.kid.value > floor.kid.high
    assert noise.precision.value < 0.1 < 0.5 < floor.precision.value


def test_one_image_again_and_again_has_no_recall(test_split):
    copies = evaluate_images(test_split.images[:1].expand(200, -1, -1, -1).contiguous())
    assert copies.recall.value < 0.05


def test_more_noise_scores_worse(test_split):
    images = test_split.images[:500]
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    fids = [evaluate_images(images + amount * eps).fid.value for amount in (0.0, 0.2, 0.5)]
    assert fids[0] < fids[1] < fids[2]


def test_accuracy_counts_the_labels_asked_for(test_split):
    images, labels = test_split.images[:300], test_split.labels[:300]
    right, wrong = evaluate_images(images, labels), evaluate_images(images, (labels + 1) % 10)
    assert right.accuracy.value > 0.85
    assert wrong.accuracy.value < 0.15
    assert evaluate_images(images).accuracy is None


def test_jackknife_gives_the_textbook_interval_of_a_mean():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks = values.reshape(10, 100).mean(1)
    interval = jackknife(lambda kept: {"mean": float(values[kept].mean())}, 1000)["mean"]
    half_width = 2.262 * float(blocks.std()) / 10**0.5
    assert interval.value == pytest.approx(float(values.mean()))
    assert interval.high - interval.value == pytest.approx(half_width, rel=1e-9)
    assert interval.value - interval.low == pytest.approx(half_width, rel=1e-9)


def test_the_fid_interval_holds_for_new_draws(test_split):
    draws = [evaluate_images(test_split.images[start : start + 400]).fid for start in range(0, 4000, 400)]
    mean = sum(draw.value for draw in draws) / len(draws)
    covered = sum(draw.low <= mean <= draw.high for draw in draws)
    assert covered >= 8  # 95 % intervals, ten draws: fewer than eight has a chance near 1 %


def test_same_seed_same_evaluation_and_its_record_names_how_it_was_made():
    model = UNet().eval()
    (result, images), (again, images_again) = (
        evaluate_model(model, linear_schedule(10), n=100, steps=2, seed=3, guidance_weight=1.0) for _ in range(2)
    )
    assert result == again
    assert torch.equal(images, images_again)
    assert evaluate_images(images, torch.arange(100) % 10).fid == result.fid
    record = result.to_dict()
    assert record["options"] == {"clip_x_0": True}
    assert (record["n"], record["sampler"], record["steps"], record["seed"]) == (100, "dpm_solver", 2, 3)
    assert len(record["evaluator"]) == 64
    assert set(record["fid"]) == {"value", "low", "high"}


def test_features_do_not_depend_on_the_batch(test_split):
    one, _ = judge(test_split.images[:50], batch_size=50)
    many, _ = judge(test_split.images[:50], batch_size=7)
    assert one.shape == (50, FEATURES)
    torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(99, 1, 28, 28), "at least 100"),
        (torch.zeros(100, 28, 28), r"\[100, 28, 28\]"),
        (torch.full((100, 1, 28, 28), float("nan")), "NaN"),
    ],
)
def test_what_cannot_be_judged_is_refused(images, message):
    with pytest.raises(InputError, match=message):
        evaluate_images(images)
