"""The common proposal: the same NLL whatever the encoder, near the truth."""

import math

import pytest
import torch
from torch import nn

from bench.data import tensors
from bench.evaluation.estimators.likelihood import effective_sample_size, importance_weighted_nll, pareto_k
from bench.evaluation.estimators.proposal import WIDER, Mixture, noise, refined_log_weights, refined_proposal, streams
from bench.experiment.factory import build_from_config
from bench.models.distributions import Gaussian
from tests.conftest import MODEL, TEXT_MODEL
from tests.evaluation.linear_gaussian import LinearGaussian, generator
from tests.evaluation.test_inference_gap import Sigmoid
from tests.test_likelihood import log_weights

CHUNK = 2000
#: Where an encoder may have its mean, in the latent's units, and how much too wide its scale may be.
STARTS = [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (3.0, 1.0), (0.0, 0.1), (0.0, 10.0), (1.0, 0.01), (3.0, 100.0)]


def pca(dim: int = 8, scale: float = 1.0, diagonal: bool = False) -> LinearGaussian:
    return LinearGaussian(dim, scale, diagonal, pixels=2 * dim + 4)


def off(q: Gaussian, offset: float, factor: float = 1.0) -> Gaussian:
    return Gaussian(q.mean + offset, q.logvar + 2 * math.log(factor))


def correlated() -> LinearGaussian:
    """All dimensions look much alike to the decoder: scales of the posterior differ by a factor of ten."""
    model = pca(scale=0.5)
    common = torch.randn(20, 1, generator=generator(3), dtype=torch.float64)
    model.weight = nn.Parameter(model.weight + common, requires_grad=False)
    model.covariance = (torch.eye(8) + model.weight.T @ model.weight / 0.25).inverse()
    return model


# -- the NLL -------------------------------------------------------------------------------------------------------


def test_a_bad_encoder_costs_a_nat_with_the_plain_estimate_and_nothing_with_the_refined_proposal():
    model = pca()
    x = model.data(60)
    truth = -model.log_px(x)
    good, bad = model.mean_field(x), model.mean_field(x, offset=0.3)
    plain = importance_weighted_nll(log_weights(model, x, bad, 500)) - truth
    assert plain.mean() > 1
    common = [refined_log_weights(model, x, q, generator(), CHUNK).log_weights for q in (good, bad)]
    nll = [importance_weighted_nll(weights) for weights in common]
    for each in nll:
        error = (each - truth).std().item() / math.sqrt(len(x))
        assert -3 * error < (each - truth).mean().item() < 0.02
    torch.testing.assert_close(nll[0], nll[1], rtol=0, atol=0.02)
    assert all(pareto_k(weights).median() < 0.6 for weights in common)
    assert all(effective_sample_size(weights).mean() > 0.2 * 500 for weights in common)


@pytest.mark.parametrize(("offset", "factor"), STARTS)
def test_the_proposal_is_the_same_from_wherever_it_starts(offset, factor):
    for model in (pca(), pca(32), Sigmoid(8)):
        x = model.data(6)
        origin = Gaussian(torch.zeros(6, 8), torch.zeros(6, 8))
        best = model.mean_field(x) if isinstance(model, LinearGaussian) else origin
        one, other = (
            refined_proposal(model, x, q, generator(), CHUNK).narrow for q in (best, off(best, offset, factor))
        )
        scale = (0.5 * one.logvar).exp()
        assert ((other.mean - one.mean) / scale).abs().mean() < 0.1
        assert (other.logvar - one.logvar).abs().mean() < 0.1


def test_a_start_too_far_off_shows_in_the_effective_sample_size():
    model = correlated()
    x = model.data(20)
    near, far = (
        refined_log_weights(model, x, model.mean_field(x, offset), generator(), CHUNK, steps=steps).log_weights
        for offset, steps in ((0.0, 100), (3.0, 10))
    )
    assert effective_sample_size(near).mean() > 25
    assert effective_sample_size(far).mean() < 3
    assert pareto_k(near).median() < 0.75 < pareto_k(far).median()


def test_correlations_that_no_diagonal_gaussian_has_cost_little():
    model = correlated()
    x = model.data(60)
    q = model.mean_field(x)
    truth = -model.log_px(x)
    narrow = (importance_weighted_nll(log_weights(model, x, q, 500)) - truth).mean().item()
    common = importance_weighted_nll(refined_log_weights(model, x, q, generator(), CHUNK).log_weights) - truth
    assert -0.05 < common.mean().item() < 0.1
    assert common.mean().item() < 0.5 * narrow


def test_a_collapsed_posterior_costs_half_of_the_samples_at_most():
    model = pca(32)
    model.weight = nn.Parameter(torch.zeros_like(model.weight), requires_grad=False)
    x = model.data(20)
    prior = Gaussian(torch.zeros(20, 32, dtype=torch.float64), torch.zeros(20, 32, dtype=torch.float64))
    found = refined_log_weights(model, x, prior, generator(), CHUNK)
    assert effective_sample_size(found.log_weights).min() > 0.5 * 500
    truth = model.log_prob(x, torch.zeros(20, 1, 32, dtype=torch.float64)).squeeze(1)
    torch.testing.assert_close(importance_weighted_nll(found.log_weights), -truth, rtol=0, atol=0.15)
    torch.testing.assert_close(found.elbo, truth, rtol=0, atol=0.01)


def test_a_nonlinear_decoder_gives_the_same_nll_by_brute_force():
    model = Sigmoid(4)
    x = model.data(20)
    with torch.no_grad():
        z = model.prior.sample(200_000, generator(5)).expand(20, -1, -1)
        truth = torch.cat([importance_weighted_nll(model.log_prob(x[i : i + 1], z[i : i + 1])) for i in range(20)])
    q = Gaussian(torch.zeros(20, 4), torch.zeros(20, 4))
    nll = importance_weighted_nll(refined_log_weights(model, x, q, generator(), CHUNK, draws=2000).log_weights)
    assert (nll - truth).mean().abs() < 0.03


# -- gaps (Cremer et al., 2018) ------------------------------------------------------------------------------------


def test_where_the_posterior_is_a_diagonal_gaussian_all_of_the_gap_is_amortisation():
    model = pca(diagonal=True)
    x = model.data(40)
    truth, exact = model.log_px(x), model.posterior(x)
    q = off(exact, 0.3)
    found = refined_log_weights(model, x, q, generator(), CHUNK)
    approximation = truth - found.elbo
    assert approximation.abs().mean() < 0.02
    amortisation = found.elbo - log_weights(model, x, q, 500).mean(1)
    expected = 0.5 * (0.09 / model.covariance.diagonal()).sum().item()
    assert amortisation.mean().item() == pytest.approx(expected, rel=0.05)


def test_the_refined_elbo_is_the_best_of_all_diagonal_gaussians():
    model = pca()
    x = model.data(40)
    found = refined_log_weights(model, x, model.mean_field(x, 1.0), generator(), CHUNK, draws=2000)
    best = model.log_px(x) - 0.5 * (model.mean_field(x).logvar[0].sum() * -1 + torch.logdet(model.covariance))
    assert (found.elbo - best).mean().item() == pytest.approx(0, abs=0.05)


# -- a proposal ----------------------------------------------------------------------------------------------------


def test_the_mixture_has_the_density_of_its_samples():
    narrow = Gaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -2.0]]))
    mixture, count = Mixture(narrow), 100_000
    z = mixture.sample(count, streams(generator(), 1))
    variance = narrow.logvar.exp() * (1 + WIDER**2) / 2
    torch.testing.assert_close(z.var(1), variance, rtol=0.02, atol=0)
    torch.testing.assert_close(z[:, ::2].var(1), narrow.logvar.exp(), rtol=0.02, atol=0)
    mass = (Gaussian(narrow.mean, narrow.logvar - 1).log_prob(z) - mixture.log_prob(z)).exp().mean().item()
    assert mass == pytest.approx(1, abs=0.02)


def test_the_stream_of_an_example_does_not_depend_on_those_after_it():
    like = torch.zeros(1, 3)
    torch.testing.assert_close(noise(streams(generator(), 5), 7, like)[:2], noise(streams(generator(), 2), 7, like))


def test_nothing_depends_on_the_chunk_nor_on_the_other_examples():
    model = Sigmoid(3)
    x = model.data(9)
    q = Gaussian(torch.zeros(9, 3), torch.zeros(9, 3))
    whole = refined_log_weights(model, x, q, generator(), CHUNK, draws=30)
    small = refined_log_weights(model, x, q, generator(), 7, draws=30)
    few = refined_log_weights(model, x[:4], Gaussian(q.mean[:4], q.logvar[:4]), generator(), CHUNK, draws=30)
    for found in (small, few):
        count = len(found.elbo)
        torch.testing.assert_close(found.log_weights, whole.log_weights[:count], rtol=0, atol=1e-3)
        torch.testing.assert_close(found.elbo, whole.elbo[:count], rtol=0, atol=1e-3)


def test_no_more_pairs_are_decoded_at_a_time_than_asked(monkeypatch):
    model, decoded = pca(3), []
    inner = model.log_prob
    monkeypatch.setattr(model, "log_prob", lambda x, z: decoded.append(z.shape[0] * z.shape[1]) or inner(x, z))
    x = model.data(5)
    refined_log_weights(model, x, model.mean_field(x), generator(), 12, steps=3, draws=50)
    assert max(decoded) <= 12
    assert sum(decoded) == 5 * (3 * 4 + 50)


@pytest.fixture(params=["image", "text"])
def freeze_groups(request):
    """An untrained model of either modality in evaluation mode with test examples, which the test must leave alone."""
    planned, prepared, sizes = (
        ("planned", "prepared", MODEL) if request.param == "image" else ("text_planned", "text_prepared", TEXT_MODEL)
    )
    _, model, _ = build_from_config(request.getfixturevalue(planned)("vae").config)
    _, (x,) = tensors.load(request.getfixturevalue(prepared), sizes).blocks("test", 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    yield model.eval(), x
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_vae_is_left_as_it_was(freeze_groups):
    model, x = freeze_groups
    with torch.no_grad():
        found = refined_log_weights(model, x, model.encode(x), generator(), 100, steps=5, draws=20)
        again = refined_log_weights(model, x, model.encode(x), generator(), 100, steps=5, draws=20)
    assert found.log_weights.dtype == found.elbo.dtype == torch.float64
    assert found.log_weights.isfinite().all()
    assert torch.equal(found.log_weights, again.log_weights)
