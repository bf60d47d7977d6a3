"""Estimators of the likelihood against probabilistic PCA."""

import math

import pytest
import torch

from bench.estimators.likelihood import effective_sample_size, importance_weighted_nll
from bench.models.distributions import Gaussian
from tests.linear_gaussian import LinearGaussian, generator


def log_weights(model: LinearGaussian, x: torch.Tensor, q: Gaussian, samples: int) -> torch.Tensor:
    z = q.rsample(samples, generator(1))
    return model.log_prob(x, z) + model.prior.log_prob(z) - q.log_prob(z)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_importance_weighted_nll_bounds_the_truth_and_closes_in(offset):
    model = LinearGaussian(2, 0.7)
    x = model.data(400)
    q = model.mean_field(x, offset)
    truth = -model.log_px(x)
    gaps = []
    for samples in (1, 50, 2000):
        difference = importance_weighted_nll(log_weights(model, x, q, samples)) - truth
        gaps.append(difference.mean().item())
        error = difference.std().item() / math.sqrt(len(x))
        assert gaps[-1] > -3 * error, "below the true NLL"
    assert gaps[2] < 0.1
    if offset:
        assert gaps[0] > gaps[1] > gaps[2]


def test_log_sum_exp_is_per_example():
    log_weights = torch.tensor([[0.0, 0.0], [-1000.0, -1000.0 + math.log(3)]], dtype=torch.float64)
    expected = torch.tensor([0.0, 1000 - math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(importance_weighted_nll(log_weights), expected)


def test_effective_sample_size_at_its_ends():
    assert effective_sample_size(torch.zeros(1, 8)).item() == pytest.approx(8)
    assert effective_sample_size(torch.tensor([[0.0, -1e3, -1e3]])).item() == pytest.approx(1)
