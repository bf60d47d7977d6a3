"""Estimators of the likelihood, and of their own errors, against probabilistic PCA."""

import math

import pytest
import torch

from bench.evaluation.estimators.likelihood import (
    effective_sample_size,
    importance_weighted_nll,
    nested_nll,
    nll_standard_error,
    pareto_k,
)
from bench.models.distributions import Gaussian
from tests.evaluation.linear_gaussian import LinearGaussian, generator


def log_weights(model: LinearGaussian, x: torch.Tensor, q: Gaussian, samples: int) -> torch.Tensor:
    z = q.rsample(samples, generator(1))
    return model.log_prob(x, z) + model.prior.log_prob(z) - q.log_prob(z)


def from_prior(model: LinearGaussian, x: torch.Tensor) -> Gaussian:
    return Gaussian(torch.zeros_like(model.mean(x)), torch.zeros_like(model.mean(x)))


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


# -- errors --------------------------------------------------------------------------------------------------------


def test_the_standard_error_is_the_spread_over_repetitions():
    model = LinearGaussian(3, 1.0, pixels=8)
    x = model.data(1).expand(1000, -1)  # each row a repetition of its own
    weights = log_weights(model, x, model.mean_field(x), 400)
    spread = importance_weighted_nll(weights).std().item()
    assert nll_standard_error(weights).square().mean().sqrt().item() == pytest.approx(spread, rel=0.1)


def test_the_standard_error_does_not_depend_on_the_weights_scale():
    weights = torch.randn(3, 50, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(nll_standard_error(weights - 2000), nll_standard_error(weights))
    plain = weights.exp().std(1) / weights.exp().mean(1) / math.sqrt(50)
    torch.testing.assert_close(nll_standard_error(weights), plain)


def test_equal_weights_have_no_error_and_one_weight_has_none_that_is_known():
    assert nll_standard_error(torch.full((2, 7), -30.0)).tolist() == [0, 0]
    assert nll_standard_error(torch.zeros(2, 1)).isnan().all()


def test_nested_estimates_are_those_of_fewer_samples_with_less_noise():
    model = LinearGaussian(3, 1.0, pixels=8)
    x = model.data(1).expand(400, -1)
    q = model.mean_field(x, offset=0.3)
    weights = log_weights(model, x, q, 1000)
    alone = importance_weighted_nll(weights[:, :20])
    nested = nested_nll(weights, 20)
    assert nested.nll.mean().item() == pytest.approx(alone.mean().item(), abs=3 * alone.std().item() / 20)
    assert nested.nll.std().item() == pytest.approx(alone.std().item() / math.sqrt(50), rel=0.2)
    assert nested.standard_error.mean().item() == pytest.approx(nested.nll.std().item(), rel=0.1)
    torch.testing.assert_close(nested_nll(weights, 1000).nll, importance_weighted_nll(weights))
    torch.testing.assert_close(nested_nll(weights, 600).standard_error, nll_standard_error(weights[:, :600]))


# -- the shape of the tail -----------------------------------------------------------------------------------------

#: Pareto k of ``scale`` times the normal quantiles at (i + ½) / S, by ``psislw`` of ArviZ 0.23.4.
NORMAL_TAILS = {
    (25, 1.0): 0.4501548211848337,
    (50, 0.1): 0.19154311435364235,
    (50, 3.0): 0.7915595323558253,
    (400, 1.0): 0.31399846795361874,
    (400, 10.0): 3.932042092338978,
    (5000, 0.1): -0.05056967058613595,
    (5000, 1.0): 0.26037134891188624,
    (5000, 3.0): 0.982925677964021,
}
#: Of the quantiles at (i + ½) / 1000 of a generalised Pareto distribution with shape k, by the same.
PARETO_TAILS = {-0.3: -0.19976370775668617, 0.1: 0.14996426749948874, 0.5: 0.49708596126252214, 2.0: 1.7987023904889194}


@pytest.mark.parametrize(("samples", "scale"), NORMAL_TAILS)
def test_pareto_k_of_normal_log_weights_is_that_of_arviz(samples, scale):
    weights = scale * torch.special.ndtri((torch.arange(samples, dtype=torch.float64) + 0.5) / samples)
    shuffled = weights[torch.randperm(samples, generator=generator())]
    both = pareto_k(torch.stack([shuffled, weights - 5000]))
    assert both.tolist() == pytest.approx([NORMAL_TAILS[samples, scale]] * 2, rel=1e-9)


@pytest.mark.parametrize("k", PARETO_TAILS)
def test_pareto_k_of_a_pareto_tail_is_that_of_arviz(k):
    rest = 1 - (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert pareto_k(((rest**-k - 1) / k).log().unsqueeze(0)).item() == pytest.approx(PARETO_TAILS[k], rel=1e-9)


def test_pareto_k_where_there_is_no_tail():
    assert pareto_k(torch.randn(2, 20, generator=generator())).isnan().all(), "four weights are no tail"
    alike = torch.full((2, 100), -30.0)
    alike[1] += 1e-5 * torch.rand(100, generator=generator())
    assert pareto_k(alike).tolist() == [-math.inf, -math.inf], "but for rounding"
    alone = torch.zeros(1, 100)
    alone[0, 3] = 5.0
    assert pareto_k(alone).isnan().all(), "one weight that stands out is no tail"
    assert pareto_k(torch.linspace(0, 5000, 100).unsqueeze(0)).item() > 10, "and these differ beyond all floats"


def test_pareto_k_tells_a_good_proposal_from_a_bad_one():
    model = LinearGaussian(8, 1.0, diagonal=True, pixels=20)
    x = model.data(100)
    exact = model.posterior(x)
    for offset in (0.0, 0.02):  # exact up to rounding, and nearly
        good = log_weights(model, x, Gaussian(exact.mean + offset, exact.logvar), 500)
        assert pareto_k(good).max() < 0.5
        assert effective_sample_size(good).min() > 480
    sharp = LinearGaussian(16, 0.3, pixels=40)
    bad = log_weights(sharp, sharp.data(100), from_prior(sharp, sharp.data(100)), 500)
    assert pareto_k(bad).min() > 0.7
    assert effective_sample_size(bad).mean() < 5
