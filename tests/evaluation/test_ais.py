"""Annealed importance sampling against probabilistic PCA: bounds, their gap, and the moves by themselves."""

import math

import pytest
import torch
from torch import Tensor

from bench.evaluation.estimators import ais as annealed
from bench.evaluation.estimators.ais import ais_log_weights, reverse_log_weights
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.estimators.proposal import streams
from bench.models.distributions import Gaussian
from tests.evaluation.linear_gaussian import LinearGaussian, generator
from tests.evaluation.test_inference_gap import Sigmoid
from tests.test_proposal import freeze_groups  # noqa: F401, a fixture

CHUNK = 10_000


@pytest.fixture(autouse=True)
def all_at_once(monkeypatch):
    """The models here are small: what a training batch may hold does not matter."""
    monkeypatch.setattr(annealed, "WITH_GRADIENT", CHUNK)


def pca() -> LinearGaussian:
    return LinearGaussian(8, 1.0, pixels=20)


def errors(model: LinearGaussian, x: Tensor, chains: int, steps: int, start: Gaussian | None = None) -> list[Tensor]:
    """How far the forward and the reverse estimate are above log p(x): two ``[N]``."""
    forward = ais_log_weights(model, x, generator(), CHUNK, chains, steps, start)
    z = model.exact_samples(x)
    reverse = reverse_log_weights(model, x, z, generator(), CHUNK, chains, steps, start)
    truth = model.log_px(x)
    return [-importance_weighted_nll(forward) - truth, importance_weighted_nll(-reverse) - truth]


def standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values))


# -- bounds --------------------------------------------------------------------------------------------------------


def test_forward_and_reverse_hold_the_truth_between_them_and_close_in():
    model = pca()
    x = model.data(16)
    gaps = []
    for steps in (20, 60, 240):
        low, high = errors(model, x, chains=8, steps=steps)
        assert low.mean() < 3 * standard_error(low)
        assert high.mean() > -3 * standard_error(high)
        gaps.append((high - low).mean().item())
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2]
    assert gaps[2] < 0.6


@pytest.mark.slow
def test_a_thousand_densities_from_the_prior_come_near_the_truth():
    low, high = errors(pca(), pca().data(40), chains=10, steps=1000)
    assert low.mean().abs() < 0.2
    assert high.mean().abs() < 0.3


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_the_way_from_a_posterior_is_shorter_than_from_the_prior(offset):
    model = pca()
    x = model.data(24)
    from_prior = errors(model, x, 8, 40)
    from_q = errors(model, x, 8, 40, model.mean_field(x, offset))
    for error in (from_q[0], -from_q[1]):
        assert error.mean() < 3 * standard_error(error)
    assert (from_q[1] - from_q[0]).mean() < (from_prior[1] - from_prior[0]).mean()


def test_from_the_exact_posterior_there_is_nothing_to_anneal():
    model = LinearGaussian(4, 0.6, diagonal=True)
    x = model.data(10)
    for error in errors(model, x, 2, 3, model.posterior(x)):
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=1e-6)


# -- what makes them bounds ----------------------------------------------------------------------------------------


def test_weights_are_unbiased_however_few_the_densities():
    """E[w] = p(x) forward and E[1/w] = 1/p(x) in reverse (Jarzynski's identity), over many chains of one example."""
    model = LinearGaussian(2, 1.0)
    x = 0.3 * model.data(3)  # where weights have no long tail, whose mean would take ever more chains
    truth = model.log_px(x).unsqueeze(1)
    forward = ais_log_weights(model, x, generator(), CHUNK, chains=3000, steps=12) - truth
    many = x.repeat_interleave(3000, dim=0)
    reverse = reverse_log_weights(model, many, model.exact_samples(many), generator(), CHUNK, chains=1, steps=12)
    for weights in (forward.exp(), (truth - reverse.view(3, -1)).exp()):
        assert weights.std() > 0.3, "too easy to tell"
        error = weights.std(1) / math.sqrt(3000)
        assert ((weights.mean(1) - 1).abs() < 3.5 * error).all()


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_moves_leave_their_density_as_it_is(beta):
    """Chains that start in p(z) p(x|z)^b stay there, at a step size that refuses some of the moves."""
    model, count = LinearGaussian(3, 0.8), 4000
    x = model.data(1)
    covariance = (torch.eye(3) + beta * model.weight.T @ model.weight / model.scale**2).inverse()
    mean = beta * x @ model.weight @ covariance / model.scale**2
    start = mean + torch.randn(count, 3, generator=generator(1), dtype=x.dtype) @ torch.linalg.cholesky(covariance).T
    origin = torch.zeros(1, 1, 3, dtype=x.dtype)
    at = annealed._points(model, x, origin, origin + 1, CHUNK)
    point, some, accepted = at(start.unsqueeze(0)), streams(generator(2), 1), []
    for _ in range(6):
        point, probability = annealed._move(at, point, beta, torch.tensor([0.5], dtype=x.dtype), some)
        accepted.append(probability.mean().item())
    assert 0.3 < min(accepted) < max(accepted) < 0.99
    z = point.u[0]
    assert ((z - start).norm(dim=1) > 1e-3).double().mean() > 0.9, "they hardly moved"
    error = covariance.diagonal().sqrt() / math.sqrt(count)
    assert ((z.mean(0) - mean[0]).abs() < 4 * error).all()
    torch.testing.assert_close(
        z.T.cov(), covariance, rtol=0, atol=6 * error.max().item() * covariance.max().sqrt().item()
    )


def test_a_chain_in_the_wrong_place_finds_its_density():
    model = LinearGaussian(3, 0.8)
    x = model.data(1)
    origin = torch.zeros(1, 1, 3, dtype=x.dtype)
    at = annealed._points(model, x, origin, origin + 1, CHUNK)
    point, some = at((origin + 4).expand(1, 1000, 3)), streams(generator(), 1)
    for _ in range(80):  # by moves of length 1, where some of the density's periods are near 2
        point, _ = annealed._move(at, point, 1.0, torch.tensor([0.1], dtype=x.dtype), some)
    error = model.covariance.diagonal().sqrt() / math.sqrt(1000)
    assert ((point.u[0].mean(0) - model.mean(x)[0]).abs() < 4 * error).all()


def test_the_schedule_goes_from_start_to_target_slowly_at_both_ends():
    schedule = torch.tensor(annealed._schedule(50))
    assert schedule[0] == 0 and schedule[-1] == 1
    steps = schedule.diff()
    assert (steps > 0).all()
    assert steps[0] < steps[10] < steps[24] and steps[-1] < steps[-10]
    torch.testing.assert_close(steps, steps.flip(0))


# -- as the house asks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_depends_on_the_chunk_nor_on_the_other_examples(reverse):
    model = LinearGaussian(3, 0.7)
    x = model.data(7)
    z = model.exact_samples(x)

    def weights(count: int, chunk: int) -> Tensor:
        if reverse:
            return reverse_log_weights(model, x[:count], z[:count], generator(), chunk, 4, 12)
        return ais_log_weights(model, x[:count], generator(), chunk, 4, 12)

    whole = weights(7, CHUNK)
    torch.testing.assert_close(weights(7, 9), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(7, 1), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(3, CHUNK), whole[:3], rtol=0, atol=1e-6)


def test_no_more_pairs_are_decoded_at_a_time_than_asked(monkeypatch):
    model, decoded = LinearGaussian(3, 0.7), []
    inner = model.log_prob
    monkeypatch.setattr(model, "log_prob", lambda x, z: decoded.append(z.shape[0] * z.shape[1]) or inner(x, z))
    ais_log_weights(model, model.data(5), generator(), 6, 10, 4)
    assert max(decoded) <= 6
    assert sum(decoded) == 5 * ((1 + 3 * 10) * 10 + (1 + 4 * 10) * annealed.PILOTS)


def test_where_the_decoder_gives_no_probability_weights_are_nothing_and_no_chain_moves_there():
    class Cliff(Sigmoid):
        def log_prob(self, x, z):
            return super().log_prob(x, z) + (1.5 - z.norm(dim=-1)).clamp(min=0).log()

    model = Cliff(2)
    model.latent_dim = 2
    weights = ais_log_weights(model, model.data(4), generator(), CHUNK, 20, 30)
    assert weights.isfinite().any(dim=1).all() and not weights.isnan().any()
    assert (weights == -math.inf).any(), "too easy to tell"


def test_a_vae_is_left_as_it_was(freeze_groups):  # noqa: F811
    model, x = freeze_groups
    with torch.no_grad():
        found, again = (ais_log_weights(model, x, generator(), 100, 3, 4) for _ in range(2))
        backwards = reverse_log_weights(model, x, torch.zeros(len(x), model.latent_dim), generator(), 100, 3, 4)
    assert found.shape == backwards.shape == (6, 3)
    assert found.dtype == backwards.dtype == torch.float64
    assert found.isfinite().all() and backwards.isfinite().all()
    assert torch.equal(found, again)
