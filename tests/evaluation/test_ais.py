import math

import pytest
import torch
from torch import Tensor

from bench.evaluation.estimators import ais
from bench.evaluation.estimators.ais import ais_log_weights
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.estimators.proposal import streams
from bench.models.distributions import Gaussian
from tests.evaluation.toy_models import LinearGaussian, generator, record_pairs, standard_error

CHUNK = 10_000


@pytest.fixture(autouse=True)
def large_batches(monkeypatch):
    monkeypatch.setattr(ais, "MAX_PAIRS_WITH_GRADIENT", CHUNK)


def errors(model: LinearGaussian, x: Tensor, chains: int, steps: int, start: Gaussian | None = None) -> Tensor:
    """Return the estimate minus log p(x): ``[N]``."""
    weights = ais_log_weights(model, x, generator(), CHUNK, chains, steps, start)
    return -importance_weighted_nll(weights) - model.log_px(x)


def test_estimate_is_a_lower_bound_that_converges():
    model = LinearGaussian(8, 1.0, pixels=20)
    few, many = (errors(model, model.data(16), chains=3, steps=steps) for steps in (10, 50))
    assert few.mean() < 2 * many.mean() and many.mean() < 3 * standard_error(many)


@pytest.mark.slow
def test_many_densities_approach_the_truth():
    model = LinearGaussian(8, 1.0, pixels=20)
    assert errors(model, model.data(40), chains=10, steps=1000).mean().abs() < 0.2


def test_start_from_a_posterior_is_better_than_from_the_prior():
    model = LinearGaussian(8, 1.0, pixels=20)
    x = model.data(12)
    from_prior, from_q = (errors(model, x, 3, 50, start) for start in (None, model.mean_field(x, offset=0.3)))
    assert from_prior.mean() < from_q.mean() < 3 * standard_error(from_q)


def test_start_from_the_true_posterior_is_exact():
    model = LinearGaussian(4, 0.6, diagonal=True)
    x = model.data(10)
    error = errors(model, x, 2, 3, model.mean_field(x))
    torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=1e-6)


def test_weights_are_unbiased_with_few_densities():
    """E[w] = p(x) (Jarzynski's identity)."""
    model = LinearGaussian(2, 1.0)
    x = 0.3 * model.data(3)  # in the centre, where the weights have no long tail
    log_weights = ais_log_weights(model, x, generator(), CHUNK, chains=1500, steps=8)
    weights = (log_weights - model.log_px(x).unsqueeze(1)).exp()
    assert weights.std() > 0.3
    assert ((weights.mean(1) - 1).abs() < 3.5 * weights.std(1) / math.sqrt(1500)).all()


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_moves_leave_their_density_invariant(beta):
    model, count = LinearGaussian(3, 0.8), 4000
    x = model.data(1)
    covariance = (torch.eye(3) + beta * model.weight.T @ model.weight / model.scale**2).inverse()
    mean = beta * x @ model.weight @ covariance / model.scale**2
    start = mean + torch.randn(count, 3, generator=generator(1), dtype=x.dtype) @ torch.linalg.cholesky(covariance).T
    state_at = state_function(model, x)
    state, generators, acceptances = state_at(start.unsqueeze(0)), streams(generator(2), 1), []
    for _ in range(6):
        state, acceptance = ais._move(state_at, state, beta, torch.tensor([0.5], dtype=x.dtype), generators)
        acceptances.append(acceptance.mean().item())
    assert 0.3 < min(acceptances) < max(acceptances) < 0.99
    z, error = state.u[0], covariance.diagonal().sqrt() / math.sqrt(count)
    assert ((z - start).norm(dim=1) > 1e-3).double().mean() > 0.9
    assert ((z.mean(0) - mean[0]).abs() < 4 * error).all()
    torch.testing.assert_close(
        z.T.cov(), covariance, rtol=0, atol=6 * error.max().item() * covariance.max().sqrt().item()
    )


def state_function(model: LinearGaussian, x: Tensor):
    origin = torch.zeros(1, 1, 3, dtype=x.dtype)
    return ais._state_function(model, x, origin, origin + 1, CHUNK)


def test_weights_do_not_depend_on_chunks_or_other_examples():
    model = LinearGaussian(3, 0.7)
    x = model.data(7)

    def weights(count: int, chunk: int) -> Tensor:
        return ais_log_weights(model, x[:count], generator(), chunk, 4, 6)

    expected = weights(7, CHUNK)
    for count, chunk in ((7, 3), (3, CHUNK)):
        torch.testing.assert_close(weights(count, chunk), expected[:count], rtol=0, atol=1e-6)


def test_ais_decodes_no_more_than_the_chunk(monkeypatch):
    model = LinearGaussian(3, 0.7)
    pairs = record_pairs(monkeypatch, model)
    ais_log_weights(model, model.data(5), generator(), 6, 10, 4)
    assert max(pairs) <= 6
    moves, pilot_moves = 3 * ais.LEAPFROG_STEPS, 4 * ais.LEAPFROG_STEPS
    assert sum(pairs) == 5 * ((1 + moves) * 10 + (1 + pilot_moves) * ais.PILOT_CHAINS)


def test_ais_leaves_the_model_unchanged(untouched_model):
    model, x = untouched_model
    first, second = (ais_log_weights(model, x, generator(), 100, 3, 2) for _ in range(2))
    assert first.shape == (6, 3) and first.dtype == torch.float64
    assert first.isfinite().all() and torch.equal(first, second)
