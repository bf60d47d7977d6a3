"""What the code tells: information between its bounds, divergences, counts of units."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.evaluation.estimators.latent_usage import (
    active_units,
    collapse_curve,
    derangement,
    informative_units,
    variance_ratio_units,
)
from bench.evaluation.estimators.mutual_information import (
    aggregate_log_prob,
    in_batch_mutual_information,
    kl_aggregate,
    mutual_information_bracket,
    sample_log_probs,
)
from bench.models.distributions import Gaussian, StandardNormal
from tests.conftest import steady

SEEDS = st.integers(0, 2**32)
SPREADS = st.sampled_from((0.0, 0.01, 1.0, 10.0))


def posterior(seed: int, examples: int, dim: int = 2, spread: float = 1.0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, examples, dim, generator=generator, dtype=torch.float64)
    return Gaussian(spread * mean, logvar.clamp(-3, 1))


def sampled(q: Gaussian, seed: int = 0) -> torch.Tensor:
    return q.rsample(1, torch.Generator().manual_seed(seed))[:, 0]


def parts(q: Gaussian, size: int) -> list[Gaussian]:
    return [Gaussian(m, v) for m, v in zip(q.mean.split(size), q.logvar.split(size), strict=True)]


def bracket(q: Gaussian, z: torch.Tensor, size: int = 1000):
    rate = StandardNormal(q.mean.shape[1]).kl(q).mean().item()
    return mutual_information_bracket(sample_log_probs(parts(q, size), z), rate)


@steady
@given(SEEDS, st.integers(2, 30), SPREADS)
def test_information_lies_below_the_log_of_the_examples_and_the_bounds_in_order(seed, examples, spread):
    q = posterior(seed, examples, spread=spread)
    found = bracket(q, sampled(q))
    assert found.low <= math.log(examples) + 1e-9
    assert found.low <= (examples - 1) / examples * found.loo + 1e-9  # the log is concave
    assert found.high <= found.loo


@steady
@given(SEEDS, st.integers(2, 30), st.floats(-5, 5), st.floats(-3, 3))
def test_posteriors_that_are_all_the_same_tell_nothing(seed, examples, mean, logvar):
    q = Gaussian(torch.full((examples, 2), mean).double(), torch.full((examples, 2), logvar).double())
    found = bracket(q, sampled(q, seed))
    assert found.low == pytest.approx(0, abs=1e-9) and found.loo == pytest.approx(0, abs=1e-9)
    assert found.high <= 1e-9


@settings(steady, max_examples=50)
@given(SEEDS, st.integers(2, 30), SPREADS, st.integers(1, 30))
def test_neither_blocks_nor_the_order_of_examples_and_dimensions_matter(seed, examples, spread, size):
    q = posterior(seed, examples, dim=3, spread=spread)
    z, generator = sampled(q), torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(examples, generator=generator), torch.randperm(3, generator=generator)
    moved = Gaussian(q.mean[rows][:, columns], q.logvar[rows][:, columns])
    assert bracket(q, z, size) == pytest.approx(bracket(q, z), rel=1e-9, abs=1e-9)
    assert bracket(moved, z[rows][:, columns]) == pytest.approx(bracket(q, z), rel=1e-9, abs=1e-9)
    assert in_batch_mutual_information(moved, z[rows][:, columns]).item() == pytest.approx(
        in_batch_mutual_information(q, z).item(), rel=1e-9, abs=1e-9
    )


@steady
@given(SEEDS, st.integers(1, 12), SPREADS)
def test_the_aggregate_is_the_mean_of_the_densities(seed, examples, spread):
    q = posterior(seed, examples, spread=spread)
    z = sampled(q, seed)
    direct = torch.stack([q.log_prob(each.expand(examples, 1, -1)).squeeze(1) for each in z]).logsumexp(1)
    assert torch.allclose(aggregate_log_prob([q], z), direct - math.log(examples), atol=1e-6)


@steady
@given(SEEDS, st.integers(2, 30), SPREADS)
def test_the_rate_of_samples_is_information_and_divergence(seed, examples, spread):
    q = posterior(seed, examples, spread=spread)
    z = sampled(q)
    found, prior = sample_log_probs([q], z), StandardNormal(2).log_prob(z)
    low = mutual_information_bracket(found, math.inf).low
    rate = (found.own - prior).mean().item()
    assert low + kl_aggregate(found.inclusive, prior) == pytest.approx(rate, rel=1e-9, abs=1e-9)


@steady
@given(st.floats(-6, 6), st.floats(-5, 3))
def test_the_kl_of_a_gaussian_is_its_integral_and_not_negative(mean, logvar):
    q = Gaussian(torch.tensor([[mean]]).double(), torch.tensor([[logvar]]).double())
    kl = StandardNormal(1).kl(q).item()
    scale = math.exp(logvar / 2)
    z = torch.linspace(mean - 12 * scale, mean + 12 * scale, 4001, dtype=torch.float64)
    log_q = q.log_prob(z.view(1, -1, 1))[0]
    log_p = StandardNormal(1).log_prob(z.unsqueeze(1))
    assert kl == pytest.approx(torch.trapezoid(log_q.exp() * (log_q - log_p), z).item(), rel=1e-6, abs=1e-9)
    assert kl >= -1e-12  # its terms cancel at the prior


@steady
@given(SEEDS, st.integers(2, 30), st.integers(1, 5))
def test_the_kl_is_the_sum_over_dimensions_and_0_at_the_prior(seed, examples, dim):
    q, prior = posterior(seed, examples, dim), StandardNormal(dim)
    assert torch.allclose(prior.kl_dim(q).sum(1), prior.kl(q)) and (prior.kl_dim(q) >= 0).all()
    at_prior = Gaussian(torch.zeros(examples, dim), torch.zeros(examples, dim))
    assert (prior.kl(at_prior) == 0).all()


@steady
@given(SEEDS, st.integers(2, 40), st.integers(1, 8), st.floats(-100, 100))
def test_units_in_use_do_not_depend_on_order_sign_or_place(seed, examples, dim, shift):
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** torch.linspace(-3, 1, dim, dtype=torch.float64)
    means = scale * torch.randn(examples, dim, generator=generator, dtype=torch.float64)
    variances = torch.rand(examples, dim, generator=generator, dtype=torch.float64)
    sign = torch.where(torch.rand(dim, generator=generator) < 0.5, -1.0, 1.0)
    rows, columns = torch.randperm(examples, generator=generator), torch.randperm(dim, generator=generator)
    active = active_units(means)
    assert 0 <= active <= dim
    assert active_units((sign * means + shift)[rows][:, columns]) == active
    assert active_units(2 * means) >= active
    in_use = variance_ratio_units(means, variances)
    assert variance_ratio_units((7 * sign * means)[:, columns], 49 * variances[:, columns]) == in_use
    assert informative_units(variances[rows][:, columns]) == informative_units(variances)


@steady
@given(SEEDS, st.integers(1, 50), st.integers(1, 6), st.floats(0, 0.5))
def test_the_collapse_curve_rises_from_0_to_1(seed, examples, dim, delta):
    kl_dim = torch.rand(examples, dim, generator=torch.Generator().manual_seed(seed)) * 5
    curve = collapse_curve(kl_dim, torch.tensor([0.0, 0.1, 1.0, 3.0, 6.0]), delta)
    assert curve[0] == 0 and curve[-1] == 1 and (curve.diff() >= 0).all()


@steady
@given(SEEDS, st.integers(2, 40))
def test_a_derangement_is_a_permutation_that_leaves_nothing_in_its_place(seed, count):
    order = derangement(count, torch.Generator().manual_seed(seed))
    assert sorted(order.tolist()) == [*range(count)] and (order != torch.arange(count)).all()
