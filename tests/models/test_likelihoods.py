"""Likelihoods against closed forms, as choices by an expression, and in a decoder of independent values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from bench.core.config import VectorModelConfig
from bench.core.errors import UserError
from bench.data.dataset import DataInfo, Values
from bench.models.build import build_model
from bench.models.registry import build_likelihood, canonical_likelihood
from tests.conftest import MODEL, TOY

EXAMPLES = 20_000


def info(values: Values, modality="vector", shape=(3,)) -> DataInfo:
    return DataInfo("toy", "toy", modality, "nats", shape, values=values)


def random_outputs(likelihood, scale=1.0, seed=0) -> torch.Tensor:
    """Outputs (1, P, 3) of a network, in float64."""
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1, likelihood.outputs, 3, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_discretised_logistic_sums_to_one(scale):
    likelihood = build_likelihood("discretised_logistic", info("intensity"))
    x = torch.arange(256, dtype=torch.float64).view(256, 1).expand(-1, 3) / 255
    log_probs = likelihood.log_prob(random_outputs(likelihood, scale).expand(256, -1, -1), x)
    torch.testing.assert_close(log_probs.exp().sum(0), torch.ones(3, dtype=torch.float64))
    assert (log_probs.diff(dim=0).sign().diff(dim=0)[1:-1] <= 0).all(), "one mode, apart from the edges"


def test_negative_binomial_has_its_mean_and_dispersion():
    likelihood = build_likelihood("", info("count")).double()
    with torch.no_grad():
        likelihood.log_dispersion.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    outputs, x = random_outputs(likelihood), torch.arange(60.0, dtype=torch.float64).view(-1, 1).expand(-1, 3)
    mean, r = outputs[0, 0].exp().numpy(), likelihood.log_dispersion.exp().detach().numpy()
    expected = stats.nbinom.logpmf(x.numpy(), r, r / (r + mean))
    np.testing.assert_allclose(likelihood.log_prob(outputs, x).detach(), expected, rtol=1e-6)


def test_negative_binomial_of_large_counts_is_exact_in_float32():
    likelihood = build_likelihood("", info("count"))
    with torch.no_grad():
        likelihood.log_dispersion.copy_(torch.tensor([3.0, 5.0, 8.0]))
    mean = torch.tensor([3e6, 1e4, 1.6e5])
    outputs, x = mean.log().view(1, 1, 3), (mean * torch.tensor([0.8, 1.0, 1.1])).round().view(1, 3)
    r = likelihood.log_dispersion.detach().double().exp().numpy()
    expected = stats.nbinom.logpmf(x.numpy(), r, r / (r + outputs.double().exp()[0].numpy()))
    log_prob = likelihood.log_prob(outputs, x)
    np.testing.assert_allclose(log_prob.detach(), expected, atol=1e-4)
    log_prob.sum().backward()
    assert likelihood.log_dispersion.grad.isfinite().all() and log_prob.dtype == torch.float32


def test_gaussian_is_normal_with_fixed_or_learned_sigma():
    x = torch.linspace(-1, 1, 3).view(1, 3)
    for expression, sigma in (("gaussian(sigma=0.5)", 0.5), ("gaussian", 1.0)):
        likelihood = build_likelihood(expression, info("real"))
        expected = torch.distributions.Normal(torch.zeros(3), sigma).log_prob(x)
        torch.testing.assert_close(likelihood.log_prob(torch.zeros(1, 1, 3), x), expected)
        assert len(list(likelihood.parameters())) == (expression == "gaussian")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("bernoulli", "binary"),
        ("gaussian", "real"),
        ("negative_binomial", "count"),
        ("discretised_logistic", "intensity"),
    ],
)
def test_samples_follow_the_likelihood(name, values):
    """Mean and standard deviation of samples are those of the density on a grid."""
    likelihood = build_likelihood(name, info(values))
    outputs = random_outputs(likelihood, scale=0.5).float().expand(EXAMPLES, -1, -1)
    x = likelihood.sample(outputs, torch.Generator().manual_seed(1))
    grid = {"bernoulli": torch.arange(2.0), "negative_binomial": torch.arange(300.0)}
    grid |= {"discretised_logistic": torch.arange(256) / 255, "gaussian": torch.linspace(-9, 9, 4001)}
    points = grid[name].view(-1, 1).expand(-1, 3)
    with torch.no_grad():
        mass = likelihood.log_prob(outputs[: len(points)], points).exp()
        mass = mass / mass.sum(0)
    mean = (mass * points).sum(0)
    deviation = ((mass * points.square()).sum(0) - mean.square()).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * deviation / EXAMPLES**0.5).all()
    torch.testing.assert_close(x.std(0), deviation, rtol=0.06, atol=0)
    if name != "discretised_logistic":  # whose mean is that before values are clipped
        torch.testing.assert_close(likelihood.mean(outputs)[0].detach(), mean, rtol=1e-3, atol=1e-3)


def test_default_likelihood_has_no_expression():
    assert canonical_likelihood("gaussian(sigma=none)", info("real")) == ""
    assert canonical_likelihood("gaussian(sigma=1e0)", info("real")) == "gaussian(sigma=1.0)"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("bernoulli", "for binary values, not count: did you mean|there is"),
        ("gausian", "unknown likelihood"),
        ("negative_binomial(r=2)", "no setting 'r'"),
    ],
)
def test_wrong_likelihoods_are_one_line(expression, problem):
    with pytest.raises(UserError, match=problem) as error:
        canonical_likelihood(expression, info("count"))
    assert "\n" not in str(error.value)


def test_autoregressive_models_keep_their_likelihood():
    with pytest.raises(UserError, match="use --model cnn"):
        build_model(replace(MODEL, likelihood="bernoulli"), info("binary", "image", (7, 7)))


@pytest.mark.parametrize("model", ["mlp", "linear"])
@pytest.mark.parametrize("latent", [True, False])
def test_decoder_sums_over_independent_values(model, latent):
    """log p(x|z) of S samples is that of every sample alone, and samples of x have the shape of x."""
    data, sizes = info("binary", "image", (7, 7)), replace(TOY.model, architecture=model)
    vae = build_model(sizes, data, latent)
    x = torch.bernoulli(torch.full((4, 1, 7, 7), 0.5), generator=torch.Generator().manual_seed(0))
    z = torch.randn(4, 3, vae.latent_dim, generator=torch.Generator().manual_seed(1))
    together = vae.log_prob(x, z)
    apart = torch.stack([vae.log_prob(x, z[:, s : s + 1])[:, 0] for s in range(3)], dim=1)
    torch.testing.assert_close(together, apart)
    logits = vae.decoder(vae.latent_to_decoder(z[:, 0]))[:, 0]  # (4, 1, 7, 7)
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(together[:, 0], expected)
    assert vae.sample(z[:, 0]).shape == x.shape and vae.encode(x).mean.shape == (4, vae.latent_dim)


def test_linear_encoder_has_constant_variances():
    vae = build_model(VectorModelConfig(latent_dim=2, architecture="linear"), info("real"))
    q = vae.encode(torch.randn(5, 3))
    assert (q.logvar == q.logvar[0]).all() and vae.decoder.network(q.mean) is q.mean
