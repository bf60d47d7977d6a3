"""Distributions against closed forms."""

import math

import pytest
import torch
from scipy import integrate, stats

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
