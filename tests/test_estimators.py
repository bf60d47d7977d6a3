"""Distributions and estimators against closed forms."""

import math

import pytest
import torch
from scipy import integrate, stats

from bench.estimators.information import (
    active_units,
    aggregate_log_prob,
    in_batch_mutual_information,
    mutual_information,
)
from bench.estimators.likelihood import effective_sample_size, importance_weighted_nll
from bench.models.distributions import Gaussian, StandardNormal


@pytest.fixture
def q():
    generator = torch.Generator().manual_seed(0)
    return Gaussian(
        torch.randn(6, 3, generator=generator, dtype=torch.float64),
        torch.randn(6, 3, generator=generator, dtype=torch.float64),
    )


def test_gaussian_densities_agree_with_scipy(q):
    z = q.rsample(4)
    expected = stats.norm(q.mean.unsqueeze(1), (0.5 * q.logvar).exp().unsqueeze(1)).logpdf(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), torch.from_numpy(expected))
    torch.testing.assert_close(q.pairwise_log_prob(z[:, 0]).diagonal(), q.log_prob(z[:, :1]).squeeze(1))
    torch.testing.assert_close(q.entropy(), torch.from_numpy(stats.norm(0, (0.5 * q.logvar).exp()).entropy().sum(-1)))


def test_pairwise_densities_are_those_of_every_pair(q):
    z = torch.randn(5, 3, dtype=torch.float64)
    every = torch.stack(
        [Gaussian(q.mean[b : b + 1], q.logvar[b : b + 1]).log_prob(z.unsqueeze(0))[0] for b in range(6)]
    )
    torch.testing.assert_close(q.pairwise_log_prob(z), every.T)


def test_kl_to_the_standard_normal_agrees_with_quadrature(q):
    kl = StandardNormal(3).kl_dim(q)
    for mean, logvar, found in zip(q.mean[:, 0].tolist(), q.logvar[:, 0].tolist(), kl[:, 0].tolist(), strict=True):
        inner = stats.norm(mean, math.exp(0.5 * logvar))
        expected, _ = integrate.quad(
            lambda t: inner.pdf(t) * (inner.logpdf(t) - stats.norm.logpdf(t)), -30, 30, limit=200
        )
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_posterior_without_dimensions_is_neutral():
    nothing, prior = Gaussian(torch.zeros(4, 0), torch.zeros(4, 0)), StandardNormal(0)
    z = nothing.rsample(2)
    assert z.shape == (4, 2, 0)
    assert (nothing.log_prob(z) == 0).all() and (prior.kl(nothing) == 0).all() and (prior.log_prob(z) == 0).all()


class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz, s² I): likelihood, posterior and MI in closed form (probabilistic PCA)."""

    def __init__(self):
        torch.manual_seed(3)
        self.weight, self.scale = torch.randn(6, 2, dtype=torch.float64), 0.7
        self.covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(6, dtype=torch.float64)
        precision = torch.eye(2, dtype=torch.float64) + self.weight.T @ self.weight / self.scale**2
        self.posterior_covariance = precision.inverse()

    def data(self, count):
        z = torch.randn(count, 2, dtype=torch.float64)
        return z @ self.weight.T + self.scale * torch.randn(count, 6, dtype=torch.float64)

    def nll(self, x):
        return -torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), self.covariance).log_prob(x)

    def log_weights(self, x, q, samples):
        z = q.rsample(samples)
        log_px = torch.distributions.Normal(z @ self.weight.T, self.scale).log_prob(x.unsqueeze(1)).sum(-1)
        return log_px + StandardNormal(2).log_prob(z) - q.log_prob(z)

    def mean_field(self, x):
        mean = x @ self.weight @ self.posterior_covariance / self.scale**2
        logvar = -self.posterior_covariance.inverse().diagonal().log()
        return Gaussian(mean, logvar.expand_as(mean))


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_importance_weighted_nll_bounds_the_truth_and_closes_in(offset):
    model = LinearGaussian()
    x = model.data(400)
    q = model.mean_field(x)
    q = Gaussian(q.mean + offset, q.logvar)
    truth = model.nll(x)
    gaps = []
    for samples in (1, 50, 2000):
        difference = importance_weighted_nll(model.log_weights(x, q, samples)) - truth
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
