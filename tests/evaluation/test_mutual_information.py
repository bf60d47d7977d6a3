"""Mutual information and the aggregate posterior against closed forms."""

import math
import time

import pytest
import torch
from torch import Tensor

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
from tests.evaluation.linear_gaussian import LinearGaussian, generator


class Foreign(Gaussian):
    """A posterior of another class, whose own ``pairwise_log_prob`` must do."""


def in_blocks(q: Gaussian, size: int, kind: type[Gaussian] = Gaussian) -> list[Gaussian]:
    return [kind(m, v) for m, v in zip(q.mean.split(size), q.logvar.split(size), strict=True)]


def bracket(q: Gaussian, seed: int = 1, block: int = 100) -> Bracket:
    z = q.rsample(1, generator(seed))[:, 0]
    rate = StandardNormal(z.shape[1]).kl(q).mean().item()
    return mutual_information_bracket(sample_log_probs(in_blocks(q, block), z), rate)


def channel(count: int, dim: int, information: float, seed: int = 0) -> Gaussian:
    """q(z|x) whose aggregate is the standard normal, with that much information about x."""
    variance = math.exp(-2 * information / dim)
    mean = math.sqrt(1 - variance) * torch.randn(count, dim, generator=generator(seed), dtype=torch.float64)
    return Gaussian(mean, torch.full_like(mean, math.log(variance)))


def of_moments(mean: float, between: float, within: float, count: int = 4000) -> Gaussian:
    """q(z|x) in one dimension whose aggregate is N(mean, between + within), but for the draw of its means."""
    draws = torch.randn(count, 1, generator=generator(), dtype=torch.float64)
    means = mean + math.sqrt(between) * (draws - draws.mean()) / draws.std()
    return Gaussian(means, torch.full_like(means, math.log(within)))


def about(values: list[float]) -> tuple[float, float]:
    """Mean and three standard errors."""
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().item(), 3 * found.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_the_bracket_holds_the_information_of_a_gaussian_channel(scale):
    """x ~ N(0, 1), q(z|x) = N(x, s²) has I = ½ ln(1 + 1/s²)."""
    mean = torch.randn(4000, 1, generator=generator(), dtype=torch.float64)
    found = bracket(Gaussian(mean, torch.full_like(mean, 2 * math.log(scale))))
    truth = 0.5 * math.log(1 + 1 / scale**2)
    assert found.low == pytest.approx(truth, abs=0.05)
    assert found.low <= found.loo and found.high >= truth - 0.05


@pytest.mark.parametrize("offset", [0.0, 0.3])
@pytest.mark.parametrize("diagonal", [True, False])
def test_the_bracket_holds_the_information_of_probabilistic_pca(offset, diagonal):
    """The aggregate is N(offset, I - Σ + Λ), Σ and Λ the covariances of p(z|x) and q(z|x): an offset tells nothing."""
    model = LinearGaussian(3, 0.4, diagonal=diagonal)
    covariance = model.mean_field(model.data(1)).logvar[0].exp().diag()
    truth = 0.5 * torch.logdet((torch.eye(3) - model.covariance + covariance) @ covariance.inverse()).item()
    if diagonal:  # q = p(z|x)
        weight = model.weight
        exact = 0.5 * torch.logdet(torch.eye(3) + weight.T @ weight / model.scale**2).item()
        assert truth == pytest.approx(exact, abs=1e-6)
    sets = model.data(6000).split(300)
    found = [bracket(model.mean_field(x, offset), seed) for seed, x in enumerate(sets)]
    low, low_error = about([one.low for one in found])
    high, high_error = about([one.high for one in found])
    assert low - low_error <= truth <= high + high_error
    assert low < math.log(300) and high < truth + 1


@pytest.mark.parametrize(
    "truth, size, inclusive, left_out",
    [(4.605, 32, 3.10, 7.95), (4.605, 500, 4.32, 5.06), (9.21, 32, 3.47, 70), (9.21, 500, 6.13, 23)],
)
def test_the_estimates_in_batches_fall_short_and_those_that_leave_out_go_far_beyond(truth, size, inclusive, left_out):
    """A channel of four dimensions, in sets of 32 and of 500: figures of an implementation of its own."""
    found = [bracket(channel(size, 4, truth, seed), seed + 1000) for seed in range(3000 // size)]
    assert about([one.low for one in found])[0] == pytest.approx(inclusive, abs=0.1)
    assert about([one.loo for one in found])[0] == pytest.approx(left_out, rel=0.06)
    assert about([one.high for one in found])[0] == pytest.approx(min(truth, left_out), abs=0.3), "the rate is exact"


def test_the_bracket_stops_at_the_log_of_the_set_and_in_batch_mi_at_the_log_of_the_batch():
    mean = torch.arange(200, dtype=torch.float64).unsqueeze(1) * 100
    q = Gaussian(mean, torch.zeros_like(mean))
    found = bracket(q, block=50)
    assert found.low == pytest.approx(math.log(200), abs=1e-9) and found.low <= math.log(200) + 1e-12
    assert found.high == found.loo > 1000, "the next code is a hundred standard deviations away"
    part = Gaussian(mean[:50], torch.zeros(50, 1, dtype=torch.float64))
    z = part.rsample(1, generator())[:, 0]
    # The entropy is analytic and log q(z) sampled, so a single batch scatters around its ceiling.
    assert in_batch_mutual_information(part, z).item() == pytest.approx(math.log(50), abs=0.5)


def test_a_collapsed_posterior_has_no_information():
    found = bracket(Gaussian(torch.zeros(100, 4), torch.zeros(100, 4)), block=50)
    assert found == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.parametrize("kind", [Gaussian, Foreign])
def test_estimates_do_not_depend_on_the_blocks(kind):
    q = channel(2 * BLOCK + 77, 3, 2.0)
    z = q.rsample(1, generator(1))[:, 0]
    pairs = q.pairwise_log_prob(z)
    own = torch.eye(len(z), dtype=torch.bool)
    for size in (33, BLOCK + 1, len(z)):
        found = sample_log_probs(in_blocks(q, size, kind), z)
        torch.testing.assert_close(found.own, pairs.diagonal())
        torch.testing.assert_close(found.inclusive, pairs.logsumexp(1) - math.log(len(z)))
        without = pairs.masked_fill(own, -math.inf).logsumexp(1) - math.log(len(z) - 1)
        torch.testing.assert_close(found.leave_one_out, without)
        torch.testing.assert_close(aggregate_log_prob(in_blocks(q, size, kind), z), found.inclusive)


def test_leaving_out_is_exact_where_the_own_term_is_all_but_everything():
    """Codes 1,000 standard deviations apart: exp(-500,000) beside 1 is lost in a difference."""
    mean = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    q = Gaussian(mean, torch.full_like(mean, 2 * math.log(1e-3)))
    z = q.rsample(1, generator())[:, 0]
    found = sample_log_probs([q], z)
    torch.testing.assert_close(found.leave_one_out, q.log_prob(z.flip(0).unsqueeze(1)).squeeze(1).flip(0))


def test_each_example_has_one_sample():
    q = channel(10, 2, 1.0)
    with pytest.raises(ValueError, match="20 samples of 10 examples"):
        sample_log_probs([q], q.rsample(2).flatten(0, 1))


def test_a_single_example_tells_nothing():
    """The aggregate of others is that of none, so that the rate alone bounds from above."""
    found = bracket(channel(1, 2, 1.0))
    assert found.low == 0 and found.loo == math.inf and math.isfinite(found.high)


@pytest.mark.parametrize(
    "mean, between, within", [(0.0, 0.75, 0.25), (0.5, 0.5, 0.1), (0.0, 1.0, 1.0), (-1.0, 0.1, 0.4)]
)
def test_the_aggregate_of_a_shifted_and_scaled_posterior_is_as_far_from_the_prior_as_its_gaussian(
    mean, between, within
):
    q, prior, variance = of_moments(mean, between, within), StandardNormal(1), between + within
    z = q.rsample(1, generator(1))[:, 0]
    forward = kl_aggregate(sample_log_probs([q], z).inclusive, prior.log_prob(z))
    assert forward == pytest.approx(0.5 * (variance + mean**2 - 1 - math.log(variance)), abs=0.05)
    reverse = kl_aggregate_reverse([q], prior, generator(2))
    assert reverse == pytest.approx(0.5 * ((1 + mean**2) / variance - 1 + math.log(variance)), rel=0.06, abs=0.02)


def test_the_rate_is_information_and_the_divergence_of_the_aggregate():
    q = of_moments(0.5, 0.5, 0.1)
    z = q.rsample(1, generator(1))[:, 0]
    log_probs = sample_log_probs([q], z)
    log_prior = StandardNormal(1).log_prob(z)
    sampled_rate = (log_probs.own - log_prior).mean().item()
    parts = mutual_information_bracket(log_probs, math.inf).low + kl_aggregate(log_probs.inclusive, log_prior)
    assert parts == pytest.approx(sampled_rate, abs=1e-9)


def test_holes_show_in_one_direction_and_leaks_in_the_other():
    """Of an aggregate that is the prior, half is taken away: ln 2 of leak, and a hole without bound."""
    whole = channel(4000, 1, 1.5)
    right = whole.mean[:, 0] > 0
    half = Gaussian(whole.mean[right], whole.logvar[right])
    far = Gaussian(3 * whole.mean, whole.logvar)

    def divergences(q: Gaussian) -> tuple[float, float]:
        z = q.rsample(1, generator(1))[:, 0]
        prior = StandardNormal(1)
        forward = kl_aggregate(sample_log_probs([q], z).inclusive, prior.log_prob(z))
        return forward, kl_aggregate_reverse([q], prior, generator(2), samples=1000)

    assert divergences(whole) == pytest.approx((0, 0), abs=0.02)
    forward, reverse = divergences(half)
    assert forward < math.log(2) < 2 < reverse
    forward, reverse = divergences(far)
    assert reverse < 1 < 2 < forward


def test_narrow_posteriors_keep_their_density():
    q = channel(300, 32, 32 * math.log(1e4))
    z = q.rsample(1, generator(1))
    torch.testing.assert_close(sample_log_probs([q], z[:, 0]).own, q.log_prob(z).squeeze(1), atol=1e-4, rtol=0)


def test_ten_thousand_examples_take_seconds_and_little_memory(monkeypatch):
    """100 million pairs, on one thread; in memory a block at a time."""
    largest, pairwise = [0], Gaussian.pairwise_log_prob

    def count_flops(q: Gaussian, z: Tensor) -> Tensor:
        largest[0] = max(largest[0], len(z) * len(q.mean))
        return pairwise(q, z)

    monkeypatch.setattr(Gaussian, "pairwise_log_prob", count_flops)
    q = channel(10_000, 32, 20.0)
    z, threads = q.rsample(1, generator(1))[:, 0], torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.process_time()
    try:
        found = mutual_information_bracket(sample_log_probs(in_blocks(q, 32), z), 20.0)
    finally:
        torch.set_num_threads(threads)
    assert time.process_time() - started < 30, "about 1 s on a machine of 2023"
    assert largest[0] <= BLOCK**2
    assert found.low == pytest.approx(math.log(10_000), abs=0.1) and found.high == 20.0
