import math

import pytest
import torch

from bench.evaluation.estimators import proposal
from bench.evaluation.estimators.full_gaussian import ITERATIONS, FullGaussian, fit_full_gaussian
from bench.evaluation.estimators.likelihood import effective_sample_size, importance_weighted_nll, pareto_k
from bench.evaluation.estimators.proposal import WIDENING, Mixture, refined_gaussian, refined_log_weights, streams
from bench.models.distributions import Gaussian
from tests.evaluation.toy_models import (
    LinearGaussian,
    Sigmoid,
    generator,
    log_weights,
    record_pairs,
    standard_error,
    with_parallel_columns,
)

CHUNK = 2000


def pca(dim: int = 8, scale: float = 1.0, diagonal: bool = False) -> LinearGaussian:
    return LinearGaussian(dim, scale, diagonal, pixels=2 * dim + 4)


def correlated() -> LinearGaussian:
    """All dimensions have similar effects on x: the posterior's scales differ by a factor of ten."""
    model = pca(scale=0.5)
    shared = torch.randn(20, 1, generator=generator(3), dtype=torch.float64)
    model.set_weight(model.weight + shared)
    return model


def test_nll_is_near_the_truth_for_good_and_bad_encoders():
    model = pca()
    x = model.data(60)
    truth = -model.log_px(x)
    bad = model.mean_field(x, offset=0.3)
    assert (importance_weighted_nll(log_weights(model, x, bad, 500)) - truth).mean() > 1
    nlls = []
    for q in (model.mean_field(x), bad):
        weights = refined_log_weights(model, x, q, generator(), CHUNK).log_weights
        nlls.append(importance_weighted_nll(weights))
        excess = nlls[-1] - truth
        assert -3 * standard_error(excess) < excess.mean() < 0.02
        assert pareto_k(weights).median() < 0.6 and effective_sample_size(weights).mean() > 100
    assert (nlls[0] - nlls[1]).abs().mean() < 0.01


STARTS = [(3.0, 1.0), (0.0, 10.0), (1.0, 0.01)]


def test_proposal_does_not_depend_on_the_start(subtests):
    for offset, factor in STARTS:
        with subtests.test(offset=offset, factor=factor):
            for model in (pca(), Sigmoid(8)):
                x = model.data(6)
                standard = Gaussian(torch.zeros(6, 8), torch.zeros(6, 8))
                q = model.mean_field(x) if isinstance(model, LinearGaussian) else standard
                other = Gaussian(q.mean + offset, q.logvar + 2 * math.log(factor))
                first, second = (refined_gaussian(model, x, start, generator(), CHUNK) for start in (q, other))
                assert ((second.mean - first.mean) / (0.5 * first.logvar).exp()).abs().mean() < 0.1
                assert (second.logvar - first.logvar).abs().mean() < 0.1


def test_diagnostics_show_an_unfinished_refinement(monkeypatch):
    monkeypatch.setattr(proposal, "MAX_FULL_DIM", 0)
    model = correlated()
    x = model.data(20)
    finished, unfinished = (
        refined_log_weights(model, x, model.mean_field(x, offset), generator(), CHUNK, steps=steps).log_weights
        for offset, steps in ((0.0, 100), (3.0, 10))
    )
    assert effective_sample_size(unfinished).mean() < 3 < 25 < effective_sample_size(finished).mean()
    assert pareto_k(finished).median() < 0.75 < pareto_k(unfinished).median()


def test_nll_of_a_nonlinear_decoder_matches_prior_sampling():
    model = Sigmoid(4)
    x = model.data(10)
    with torch.no_grad():
        z = model.prior.sample(100_000, generator(5)).expand(1, -1, -1)
        truth = torch.cat([importance_weighted_nll(model.log_prob(row, z)) for row in x.split(1)])
    q = Gaussian(torch.zeros(10, 4), torch.zeros(10, 4))
    nll = importance_weighted_nll(refined_log_weights(model, x, q, generator(), CHUNK, draws=2000).log_weights)
    assert (nll - truth).mean().abs() < 0.03


def test_gap_of_a_diagonal_posterior_is_amortisation():
    model = pca(diagonal=True)
    x = model.data(40)
    q = model.mean_field(x, offset=0.3)
    result = refined_log_weights(model, x, q, generator(), CHUNK)
    assert (model.log_px(x) - result.elbo).abs().mean() < 0.02
    amortisation = result.elbo - log_weights(model, x, q, 500).mean(1)
    expected = 0.5 * (0.09 / model.covariance.diagonal()).sum().item()
    assert amortisation.mean().item() == pytest.approx(expected, rel=0.05)


def test_refined_elbo_is_the_best_of_the_family():
    model = pca()
    x = model.data(40)
    result = refined_log_weights(model, x, model.mean_field(x, 1.0), generator(), CHUNK, draws=2000)
    kl = -0.5 * (model.mean_field(x).logvar[0].sum() - torch.logdet(model.covariance))
    assert (result.elbo - (model.log_px(x) - kl.abs())).mean().abs() < 0.05


@pytest.mark.parametrize("dim", [3, 8, 16])
def test_newton_steps_find_a_correlated_gaussian(dim):
    model = with_parallel_columns(dim, 0.3)
    x = model.data(10)
    start = FullGaussian.diagonal(model.mean_field(x, offset=0.3))
    fit = fit_full_gaussian(model, x, start, CHUNK)
    torch.testing.assert_close(fit.mean, model.mean(x))
    torch.testing.assert_close(fit.root @ fit.root.mT, model.covariance.expand(10, -1, -1), atol=1e-8, rtol=0)
    z = fit.transform(torch.randn(10, 5, dim, generator=generator()))
    truth = model.log_prob(x, z) + model.prior.log_prob(z) - model.log_px(x).unsqueeze(1)
    torch.testing.assert_close(fit.log_prob(z), truth)


def test_full_covariance_where_columns_are_nearly_parallel(subtests, monkeypatch):
    for scale, before in [(1.0, 1.2), (0.3, 2.9)]:
        with subtests.test(scale=scale):
            model = with_parallel_columns(3, scale)
            x = model.data(10)
            full = refined_log_weights(model, x, model.mean_field(x), generator(), CHUNK)
            error = importance_weighted_nll(full.log_weights) + model.log_px(x)
            assert full.full_covariance.all() and error.abs().max() < 0.1 and error.mean().abs() < 0.02
            with monkeypatch.context() as patch:
                patch.setattr(proposal, "MAX_FULL_DIM", 0)
                diagonal = refined_log_weights(model, x, model.mean_field(x), generator(), CHUNK)
            error = importance_weighted_nll(diagonal.log_weights) + model.log_px(x)
            assert error.mean() > before and pareto_k(diagonal.log_weights).median() > 0.7
            torch.testing.assert_close(full.elbo, diagonal.elbo)


def test_gap_of_a_narrow_posterior_is_not_negative(subtests):
    """Posterior scales far below the initial scale of the proposal."""
    for scale, offset in [(0.02, 0.0), (0.001, 0.0), (0.001, 1.0)]:
        with subtests.test(scale=scale, offset=offset):
            model = LinearGaussian(4, scale, diagonal=True)
            x = model.data(10)
            q = model.mean_field(x)
            q = Gaussian(q.mean + offset * (0.5 * q.logvar).exp(), q.logvar)
            result = refined_log_weights(model, x, q, generator(), CHUNK)
            gap = (result.elbo - log_weights(model, x, q, 500).mean(1)).mean().item()
            assert gap == pytest.approx(4 * offset**2 / 2, abs=0.05)
            assert (importance_weighted_nll(result.log_weights) + model.log_px(x)).mean().abs() < 0.01


def test_posterior_much_too_narrow_is_not_the_start():
    model = LinearGaussian(4, 0.1, diagonal=True)
    x = model.data(10)
    q = model.mean_field(x)
    result = refined_log_weights(model, x, Gaussian(q.mean, q.logvar - 14), generator(), CHUNK)
    torch.testing.assert_close(result.elbo, model.log_px(x), atol=0.01, rtol=0)


def test_mixture_has_the_density_of_its_samples():
    narrow = Gaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -2.0]]))
    mixture = Mixture(FullGaussian.diagonal(narrow))
    z = mixture.sample(100_000, streams(generator(), 1))
    torch.testing.assert_close(z.var(1), narrow.logvar.exp() * (1 + WIDENING**2) / 2, rtol=0.02, atol=0)
    torch.testing.assert_close(z[:, ::2].var(1), narrow.logvar.exp(), rtol=0.02, atol=0)
    mass = (Gaussian(narrow.mean, narrow.logvar - 1).log_prob(z) - mixture.log_prob(z)).exp().mean().item()
    assert mass == pytest.approx(1, abs=0.02)


def test_weights_do_not_depend_on_chunks_or_other_examples():
    model = Sigmoid(3)
    x, zeros = model.data(9), torch.zeros(9, 3)
    all_at_once = refined_log_weights(model, x, Gaussian(zeros, zeros), generator(), CHUNK, draws=30)
    chunked = refined_log_weights(model, x, Gaussian(zeros, zeros), generator(), 7, draws=30)
    fewer = refined_log_weights(model, x[:4], Gaussian(zeros[:4], zeros[:4]), generator(), CHUNK, draws=30)
    for result in (chunked, fewer):
        expected = all_at_once.log_weights[: len(result.elbo)]
        torch.testing.assert_close(result.log_weights, expected, rtol=0, atol=1e-3)


def test_refinement_decodes_no_more_than_the_chunk(monkeypatch):
    model = pca(3)
    x, pairs = model.data(5), record_pairs(monkeypatch, model)
    result = refined_log_weights(model, x, model.mean_field(x), generator(), 12, steps=3, draws=50)
    full = int(result.full_covariance.sum()) * (ITERATIONS * 2 * 3 + 50)
    assert max(pairs) <= 12 and sum(pairs) == 5 * (3 * 4 + 50 + 2 * 3) + full


def test_refinement_leaves_the_model_unchanged(untouched_model):
    model, x = untouched_model
    first, second = (
        refined_log_weights(model, x, model.encode(x), generator(), 100, steps=5, draws=20).log_weights
        for _ in range(2)
    )
    assert first.dtype == torch.float64 and first.isfinite().all() and torch.equal(first, second)
