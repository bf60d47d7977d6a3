import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.estimators.mutual_information import (
    BLOCK,
    Bracket,
    aggregate_log_prob,
    in_batch_mutual_information,
    kl_aggregate,
    kl_aggregate_reverse,
    mutual_information_bracket,
    sample_log_probs,
)
from bench.models.distributions import Gaussian, StandardNormal
from tests.conftest import steady
from tests.evaluation.toy_models import LinearGaussian, generator

SEEDS = st.integers(0, 2**32)
SPREADS = st.sampled_from((0.0, 0.01, 1.0, 10.0))


class OtherGaussian(Gaussian):
    """A subclass, for which blocks are not merged."""


def in_blocks(q: Gaussian, size: int, kind: type[Gaussian] = Gaussian) -> list[Gaussian]:
    return [kind(m, v) for m, v in zip(q.mean.split(size), q.logvar.split(size), strict=True)]


def one_sample(q: Gaussian, seed: int = 1) -> torch.Tensor:
    return q.rsample(1, generator(seed))[:, 0]


def bracket(q: Gaussian, seed: int = 1, block: int = 100, z: torch.Tensor | None = None) -> Bracket:
    z = one_sample(q, seed) if z is None else z
    rate = StandardNormal(z.shape[1]).kl(q).mean().item()
    return mutual_information_bracket(sample_log_probs(in_blocks(q, block), z), rate)


def channel(count: int, dim: int, information: float, seed: int = 0) -> Gaussian:
    """Return q(z|x) whose aggregate is the standard normal and which has ``information`` about x."""
    variance = math.exp(-2 * information / dim)
    mean = math.sqrt(1 - variance) * torch.randn(count, dim, generator=generator(seed), dtype=torch.float64)
    return Gaussian(mean, torch.full_like(mean, math.log(variance)))


def with_moments(mean: float, between: float, within: float) -> Gaussian:
    """Return q(z|x) in one dimension with the aggregate N(mean, between + within)."""
    noise = torch.randn(4000, 1, generator=generator(), dtype=torch.float64)
    means = mean + math.sqrt(between) * (noise - noise.mean()) / noise.std()
    return Gaussian(means, torch.full_like(means, math.log(within)))


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean and three standard errors."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return tensor.mean().item(), 3 * tensor.std().item() / math.sqrt(len(values))


def test_bracket_contains_mi_of_pca(subtests):
    """The aggregate is N(offset, I - Σ + Λ) with the covariances Σ of p(z|x) and Λ of q(z|x)."""
    for offset, diagonal in itertools.product([0.0, 0.3], [True, False]):
        with subtests.test(offset=offset, diagonal=diagonal):
            model = LinearGaussian(3, 0.4, diagonal=diagonal)
            covariance = model.mean_field(model.data(1)).logvar[0].exp().diag()
            truth = 0.5 * torch.logdet((torch.eye(3) - model.covariance + covariance) @ covariance.inverse()).item()
            if diagonal:  # q is the true posterior
                exact = 0.5 * torch.logdet(torch.eye(3) + model.weight.T @ model.weight / model.scale**2).item()
                assert truth == pytest.approx(exact, abs=1e-6)
            results = [bracket(model.mean_field(x, offset), seed) for seed, x in enumerate(model.data(6000).split(300))]
            low, low_error = mean_and_error([result.low for result in results])
            high, high_error = mean_and_error([result.high for result in results])
            assert low - low_error <= truth <= high + high_error
            assert low < math.log(300) and high < truth + 1


def test_estimates_of_small_sets_match_an_independent_implementation(subtests):
    for truth, size, inclusive, leave_one_out in [
        (4.605, 32, 3.10, 7.95),
        (4.605, 500, 4.32, 5.06),
        (9.21, 32, 3.47, 70),
        (9.21, 500, 6.13, 23),
    ]:
        with subtests.test(truth=truth, size=size):
            results = [bracket(channel(size, 4, truth, seed), seed + 1000) for seed in range(3000 // size)]
            assert mean_and_error([result.low for result in results])[0] == pytest.approx(inclusive, abs=0.1)
            assert mean_and_error([result.loo for result in results])[0] == pytest.approx(leave_one_out, rel=0.06)
            assert mean_and_error([result.high for result in results])[0] == pytest.approx(
                min(truth, leave_one_out), abs=0.3
            )


def test_mi_is_at_most_the_log_of_the_set():
    mean = torch.arange(200, dtype=torch.float64).unsqueeze(1) * 100
    result = bracket(Gaussian(mean, torch.zeros_like(mean)), block=50)
    assert result.low == pytest.approx(math.log(200), abs=1e-9) and result.high == result.loo > 1000
    batch = Gaussian(mean[:50], torch.zeros(50, 1, dtype=torch.float64))
    assert in_batch_mutual_information(batch, one_sample(batch)).item() == pytest.approx(math.log(50), abs=0.5)


@pytest.mark.parametrize("kind", [Gaussian, OtherGaussian])
def test_densities_do_not_depend_on_blocks(kind):
    q = channel(BLOCK + 77, 3, 2.0)
    z = one_sample(q)
    pairs = q.pairwise_log_prob(z)
    without_own = pairs.masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
    for size in (33, BLOCK + 1, len(z)):
        result = sample_log_probs(in_blocks(q, size, kind), z)
        torch.testing.assert_close(result.own, pairs.diagonal())
        torch.testing.assert_close(result.inclusive, pairs.logsumexp(1) - math.log(len(z)))
        torch.testing.assert_close(result.leave_one_out, without_own.logsumexp(1) - math.log(len(z) - 1))
        torch.testing.assert_close(aggregate_log_prob(in_blocks(q, size, kind), z), result.inclusive)


def test_leave_one_out_is_exact_for_distant_codes():
    """Codes 1,000 standard deviations apart: exp(-500,000) is lost in a difference."""
    mean = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    q = Gaussian(mean, torch.full_like(mean, 2 * math.log(1e-3)))
    z = one_sample(q)
    expected = q.log_prob(z.flip(0).unsqueeze(1)).squeeze(1).flip(0)
    torch.testing.assert_close(sample_log_probs([q], z).leave_one_out, expected)


def test_divergences_of_a_gaussian_aggregate(subtests):
    for mean, between, within in [(0.0, 0.75, 0.25), (0.5, 0.5, 0.1), (0.0, 1.0, 1.0), (-1.0, 0.1, 0.4)]:
        with subtests.test(mean=mean, between=between, within=within):
            q, prior, variance = with_moments(mean, between, within), StandardNormal(1), between + within
            z = one_sample(q)
            forward = kl_aggregate(sample_log_probs([q], z).inclusive, prior.log_prob(z))
            assert forward == pytest.approx(0.5 * (variance + mean**2 - 1 - math.log(variance)), abs=0.05)
            reverse = kl_aggregate_reverse([q], prior, generator(2))
            assert reverse == pytest.approx(
                0.5 * ((1 + mean**2) / variance - 1 + math.log(variance)), rel=0.06, abs=0.02
            )


def test_holes_and_leaks_show_in_opposite_directions():
    whole, prior = channel(2000, 1, 1.5), StandardNormal(1)
    positive = whole.mean[:, 0] > 0
    half = Gaussian(whole.mean[positive], whole.logvar[positive])  # ln 2 of leak, and a hole
    wide = Gaussian(3 * whole.mean, whole.logvar)

    def divergences(q: Gaussian) -> tuple[float, float]:
        z = one_sample(q)
        forward = kl_aggregate(sample_log_probs([q], z).inclusive, prior.log_prob(z))
        return forward, kl_aggregate_reverse([q], prior, generator(2), samples=1000)

    assert divergences(whole) == pytest.approx((0, 0), abs=0.05)
    forward, reverse = divergences(half)
    assert forward < math.log(2) < 2 < reverse
    forward, reverse = divergences(wide)
    assert reverse < 1 < 2 < forward


def random_posterior(seed: int, examples: int, spread: float, dim: int = 2) -> Gaussian:
    mean, logvar = torch.randn(2, examples, dim, generator=generator(seed), dtype=torch.float64)
    return Gaussian(spread * mean, logvar.clamp(-3, 1))


@steady
@given(SEEDS, st.integers(2, 30), SPREADS)
def test_bounds_are_ordered_and_add_up_to_the_rate(seed, examples, spread):
    q = random_posterior(seed, examples, spread)
    z = one_sample(q)
    result, densities, prior = bracket(q), sample_log_probs([q], z), StandardNormal(2).log_prob(z)
    assert result.low <= math.log(examples) + 1e-9 and result.high <= result.loo
    assert result.low <= (examples - 1) / examples * result.loo + 1e-9  # by concavity of the log
    rate = (densities.own - prior).mean().item()
    assert result.low + kl_aggregate(densities.inclusive, prior) == pytest.approx(rate, rel=1e-9, abs=1e-9)
