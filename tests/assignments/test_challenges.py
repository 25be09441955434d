"""What all challenges measure with: the network and the distance are those of the course."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ddpm_lib import evaluation, pretrained
from ddpm_lib.checkpoints import load_tensors
from ddpm_lib.classifier import CLASSIFIER_SHA256, judge
from ddpm_lib.course.challenges import measuring
from ddpm_lib.schedules import linear_schedule


def test_the_network_is_the_averaged_one_of_the_last_epoch():
    ours, shipped = measuring.trained_network().state_dict(), pretrained.load("cfg_ema").state_dict()
    assert ours.keys() == shipped.keys()
    assert all(torch.equal(ours[name], shipped[name]) for name in ours)
    torch.testing.assert_close(linear_schedule().alpha_bars, pretrained.schedule("cfg_ema").alpha_bars)


def test_the_distance_is_that_of_the_evaluation():
    images = torch.rand(300, 1, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1
    real = {name: tensor.numpy() for name, tensor in load_tensors(measuring.REAL_STATISTICS)[0].items()}
    theirs = fid_statistics_to_metric(fid_features_to_statistics(judge(images)[0]), real, verbose=False)
    assert measuring.fid(images) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_the_shipped_statistics_are_those_of_the_training_images():
    tensors, metadata = load_tensors(measuring.REAL_STATISTICS)
    assert metadata["by"] == CLASSIFIER_SHA256
    real = fid_features_to_statistics(evaluation.real_features())
    torch.testing.assert_close(tensors["mu"], torch.as_tensor(real["mu"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tensors["sigma"], torch.as_tensor(real["sigma"]), rtol=1e-3, atol=1e-5)
