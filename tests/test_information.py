"""Mutual information, the aggregate posterior and use of the latent against closed forms."""

import math

import pytest
import torch

from bench.estimators.information import (
    active_units,
    aggregate_log_prob,
    in_batch_mutual_information,
    mutual_information,
)
from bench.models.distributions import Gaussian


def estimated_mi(q: Gaussian, block: int) -> float:
    z = q.rsample(1, torch.Generator().manual_seed(1))
    parts = [Gaussian(m, v) for m, v in zip(q.mean.split(block), q.logvar.split(block), strict=True)]
    return mutual_information(q.log_prob(z).squeeze(1), aggregate_log_prob(parts, z[:, 0]))


def test_whole_set_mi_of_a_gaussian_channel():
    """x ~ N(0, 1), q(z|x) = N(x, s²) has I = ½ ln(1 + 1/s²)."""
    mean = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = Gaussian(mean, torch.full_like(mean, math.log(0.25)))
    assert estimated_mi(q, 500) == pytest.approx(0.5 * math.log(5), abs=0.05)
    assert estimated_mi(q, 500) == pytest.approx(estimated_mi(q, 4000), abs=1e-9), "depends on the blocks"


def test_mi_stops_at_the_log_of_the_set_and_in_batch_mi_at_the_log_of_the_batch():
    mean = torch.arange(200, dtype=torch.float64).unsqueeze(1) * 100
    q = Gaussian(mean, torch.zeros_like(mean))
    assert estimated_mi(q, 50) == pytest.approx(math.log(200), abs=1e-6)
    part = Gaussian(mean[:50], torch.zeros(50, 1, dtype=torch.float64))
    z = part.rsample(1, torch.Generator().manual_seed(0))[:, 0]
    # The entropy is analytic and log q(z) sampled, so a single batch scatters around its ceiling.
    assert in_batch_mutual_information(part, z).item() == pytest.approx(math.log(50), abs=0.5)


def test_mi_of_a_collapsed_posterior_is_zero():
    q = Gaussian(torch.zeros(100, 4), torch.zeros(100, 4))
    assert estimated_mi(q, 50) == pytest.approx(0, abs=1e-5)


def test_active_units_counts_variance_of_means():
    means = torch.randn(2000, 3) * torch.tensor([1.0, 0.05, 0.2])
    assert active_units(means) == 2
    assert active_units(means, threshold=1e-4) == 3
