import itertools
import math

import pytest
import torch
from torch import Tensor

from bench.evaluation.estimators.latent_usage import (
    active_units,
    collapse_curve,
    coupled_samples,
    derangement,
    distortion_gaps,
    informative_units,
    variance_ratio_units,
)
from bench.models.distributions import Gaussian, StandardNormal
from tests.evaluation.toy_models import LinearGaussian, SamplesOnly, generator, standard_error


def test_active_units_count_variance_of_means():
    means = torch.randn(2000, 3, generator=generator()) * torch.tensor([1.0, 0.05, 0.2])
    assert active_units(means) == 2 and active_units(means, threshold=1e-4) == 3


def test_kl_and_variance_ratio_do_not_depend_on_the_scale_of_means():
    means = torch.randn(2000, 3, generator=generator(), dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.0])
    variances = torch.tensor([0.1, 0.75, 1.0], dtype=torch.float64).expand(2000, 3)
    kl = StandardNormal(3).kl_dim(Gaussian(means, variances.log()))
    assert (active_units(means), informative_units(kl), variance_ratio_units(means, variances)) == (2, 2, 2)
    assert active_units(0.01 * means) == 0 and variance_ratio_units(0.01 * means, 1e-4 * variances) == 2


def test_normalised_means_of_a_collapsed_posterior_are_active_only():
    means = 0.12 * torch.randn(2000, 4, generator=generator(), dtype=torch.float64)
    variances = torch.full_like(means, 1 - 0.12**2)
    kl = StandardNormal(4).kl_dim(Gaussian(means, variances.log()))
    assert (active_units(means), informative_units(kl), variance_ratio_units(means, variances)) == (4, 0, 0)
    assert variance_ratio_units(torch.zeros(10, 2), torch.zeros(10, 2)) == 0


def test_counts_are_undefined_where_numbers_are():
    one, diverged = torch.zeros(1, 3), torch.tensor([[0.0, math.nan], [1.0, 2.0]])
    assert math.isnan(active_units(one)) and math.isnan(variance_ratio_units(one, one))
    assert informative_units(one) == 0
    assert math.isnan(active_units(diverged)) and math.isnan(informative_units(diverged))
    assert collapse_curve(diverged, torch.ones(2)).isnan().all()


def test_collapse_curve_matches_its_definition(subtests):
    for count, delta in itertools.product([100, 1234], [0.0, 0.01, 0.07, 0.29]):
        with subtests.test(count=count, delta=delta):
            kl = torch.rand(count, 7, generator=generator()) * torch.logspace(-4, 1, 7)
            epsilons = torch.logspace(-4, 1, 50)
            share = (kl.unsqueeze(0) < epsilons.view(-1, 1, 1)).double().mean(1)
            expected = (share >= 1 - delta - 1e-12).double().mean(1)
            torch.testing.assert_close(collapse_curve(kl, epsilons, delta), expected)


def test_derangements_are_uniform():
    for count in (2, 3, 50):
        order = derangement(count, generator())
        assert sorted(order.tolist()) == [*range(count)] and not (order == torch.arange(count)).any()
    random = generator()
    draws = [tuple(derangement(4, random).tolist()) for _ in range(1800)]
    counts = {order: draws.count(order) for order in draws}
    assert len(counts) == 9 and all(150 < count < 250 for count in counts.values())
    with pytest.raises(ValueError, match="at least two"):
        derangement(1, generator())


def gaps(model: LinearGaussian, x: Tensor, q: Gaussian, chunk: int = 10_000):
    return distortion_gaps(model, x, *coupled_samples([q], model.prior, 4, generator(1)), chunk)


def test_gaps_of_pca(subtests):
    """Own and other z are independent given W: the squared error increases by tr WᵀW / s² for both gaps."""
    for scale in [0.5, 1.0, 3.0]:
        with subtests.test(scale=scale):
            model = LinearGaussian(2, scale, diagonal=True)
            x = model.data(4000)
            for gap in gaps(model, x, model.mean_field(x)):
                assert gap.dtype == torch.float64 and gap.shape == (4000,)
                assert gap.mean().item() == pytest.approx(2 / scale**2, abs=3.5 * standard_error(gap))
                assert gap.mean().item() >= math.log(1 + 1 / scale**2), "below the mutual information"


def test_gaps_are_zero_if_z_is_not_used():
    class IgnoresZ(LinearGaussian):
        def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
            return super().log_prob(x, torch.zeros_like(z))

    model = IgnoresZ(2, 0.5, diagonal=True)
    x = model.data(100)
    assert all((gap == 0).all() for gap in gaps(model, x, model.mean_field(x)))
    model, zeros = LinearGaussian(2, 0.5), torch.zeros(100, 2, dtype=torch.float64)
    assert all((gap == 0).all() for gap in gaps(model, x, Gaussian(zeros, zeros)))  # by common noise


def test_gaps_do_not_depend_on_chunks_or_blocks():
    model = LinearGaussian(2, 0.5)
    x = model.data(30)
    q = model.mean_field(x)
    expected = gaps(model, x, q)
    for chunk in (1, 60):
        torch.testing.assert_close(gaps(model, x, q, chunk), expected)
    halves = [Gaussian(m, v) for m, v in zip(q.mean.split(17), q.logvar.split(17), strict=True)]
    z = coupled_samples(halves, model.prior, 4, generator(1))
    blocks = [
        distortion_gaps(model, *block, chunk=100) for block in zip(x.split(17), *(s.split(17) for s in z), strict=True)
    ]
    torch.testing.assert_close(torch.cat([block.shuffle for block in blocks]), expected.shuffle)


def test_coupled_samples_of_other_posteriors_permute_own_samples():
    mean = torch.arange(20, dtype=torch.float64).view(10, 2)
    posteriors = [SamplesOnly(Gaussian(part, torch.full_like(part, -8.0))) for part in mean.split(4)]
    own, other, prior = coupled_samples(posteriors, StandardNormal(2), 3, generator())
    assert own.shape == other.shape == prior.shape == (10, 3, 2)
    assert ((own - mean.unsqueeze(1)).abs() < 0.5).all() and ((other - mean.unsqueeze(1)).abs() > 1).all()
    for sample in range(3):
        assert sorted(other[:, sample, 0].tolist()) == sorted(own[:, sample, 0].tolist())
