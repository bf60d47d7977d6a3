"""Gaussian posteriors and the standard normal prior against scipy and quadrature."""

import math

import pytest
import torch
from scipy import integrate, stats

from bench.models.distributions import Gaussian, StandardNormal, gaussian_kl


@pytest.fixture
def q():
    mean, logvar = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Gaussian(mean, logvar)


def test_densities_match_scipy(q):
    z = q.rsample(4)
    scale = (0.5 * q.logvar).exp()
    expected = stats.norm(q.mean.unsqueeze(1), scale.unsqueeze(1)).logpdf(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), torch.from_numpy(expected))
    torch.testing.assert_close(q.entropy(), torch.from_numpy(stats.norm(0, scale).entropy().sum(-1)))


def test_pairwise_densities_match_single_ones(q):
    z = torch.randn(5, 3, dtype=torch.float64)
    expected = torch.stack(
        [Gaussian(q.mean[b : b + 1], q.logvar[b : b + 1]).log_prob(z.unsqueeze(0))[0] for b in range(6)]
    )
    torch.testing.assert_close(q.pairwise_log_prob(z), expected.T)


def test_kl_to_the_prior_matches_quadrature(q):
    kl = StandardNormal(3).kl_dim(q)
    for mean, logvar, value in zip(q.mean[:, 0].tolist(), q.logvar[:, 0].tolist(), kl[:, 0].tolist(), strict=True):
        inner = stats.norm(mean, math.exp(0.5 * logvar))
        expected, _ = integrate.quad(
            lambda t: inner.pdf(t) * (inner.logpdf(t) - stats.norm.logpdf(t)), -30, 30, limit=200
        )
        assert value == pytest.approx(expected, rel=1e-6)
    standard = Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    torch.testing.assert_close(gaussian_kl(q, standard), kl.sum(-1))


def test_posterior_without_dimensions():
    q, prior = Gaussian(torch.zeros(4, 0), torch.zeros(4, 0)), StandardNormal(0)
    z = q.rsample(2)
    assert z.shape == (4, 2, 0)
    assert (q.log_prob(z) == 0).all() and (prior.kl(q) == 0).all() and (prior.log_prob(z) == 0).all()
