"""The true posterior and the lag behind it, against closed forms and importance sampling."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from bench.evaluation.estimators import inference_gap as inference
from bench.evaluation.estimators.inference_gap import elbo, lag, refined, true_posterior
from bench.experiment.factory import build_from_config
from bench.models.distributions import Gaussian, StandardNormal
from tests.evaluation.linear_gaussian import LinearGaussian, generator


class Pieces(nn.Module):
    """p(z|x) is an equal mixture of Gaussians of one ``scale``, and p(x) is 1, for every x."""

    def __init__(self, centres: list[list[float]], scale: float):
        super().__init__()
        self.centres, self.scale = torch.tensor(centres, dtype=torch.float64), scale
        self.prior = StandardNormal(self.centres.shape[1])

    def log_prob(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        each = Normal(self.centres, self.scale).log_prob(z.unsqueeze(2)).sum(-1)
        return torch.logsumexp(each, dim=2) - math.log(len(self.centres)) - self.prior.log_prob(z)


class Widths(nn.Module):
    """p(z|x) is a Gaussian around 0.3 whose scale is x, and p(x) is 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.prior = StandardNormal(dim)

    def log_prob(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return Normal(0.3, x.unsqueeze(2)).log_prob(z).sum(-1) - self.prior.log_prob(z)


class Sigmoid(nn.Module):
    """A small nonlinear decoder of 20 binary pixels with random weights and an informative latent."""

    def __init__(self, dim: int):
        super().__init__()
        self.prior, self.hidden, self.logits = StandardNormal(dim), nn.Linear(dim, 16), nn.Linear(16, 20)
        random = generator()
        for parameter, scale in zip(self.parameters(), (1, 1, 1, 1), strict=True):
            nn.init.normal_(parameter, std=scale, generator=random)

    def scores(self, z: torch.Tensor) -> torch.Tensor:
        return self.logits(self.hidden(z).tanh())

    def log_prob(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        scores = self.scores(z)
        return (scores @ x.unsqueeze(2)).squeeze(2) - softplus(scores).sum(-1)

    @torch.no_grad()
    def data(self, count: int) -> torch.Tensor:
        z = self.prior.sample(count, generator())
        return torch.bernoulli(self.scores(z).sigmoid(), generator=generator())


# -- quadrature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guess", ["right", "origin", "wrong"])
@pytest.mark.parametrize(
    ("dim", "scale"), [(1, 5.0), (1, 0.7), (1, 0.1), (1, 0.01), (2, 5.0), (2, 0.7), (2, 0.2), (2, 0.1)]
)
def test_quadrature_agrees_with_the_closed_form(dim, scale, guess):
    model = LinearGaussian(dim, scale)
    x = model.data(70)
    mean = model.mean(x)
    near = {"right": mean, "origin": torch.zeros_like(mean), "wrong": 1.5 - mean}[guess]
    found = true_posterior(model, x, near, chunk=1000)
    torch.testing.assert_close(found.mean, mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.log_px, model.log_px(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 0.2, 0.1])
@pytest.mark.parametrize("centres", [[[-2.0], [0.8]], [[-2.0, -0.7], [1.2, 0.4]], [[0.0, 6.0]]])
def test_a_posterior_in_pieces_or_far_out_is_seen_whole(centres, scale):
    model = Pieces(centres, scale)
    found = true_posterior(model, torch.zeros(1, 3), torch.tensor(centres[-1:]), chunk=1000)
    torch.testing.assert_close(found.mean, model.centres.mean(0, keepdim=True), atol=2e-3, rtol=0)
    torch.testing.assert_close(found.log_px, torch.zeros(1, dtype=torch.float64), atol=2e-3, rtol=0)


@pytest.mark.parametrize("dim", [1, 2])
def test_posteriors_of_all_widths_are_integrated_together(dim):
    """Each spends its nodes as its own width asks."""
    x = torch.linspace(0.1, 1.0, 32, dtype=torch.float64).unsqueeze(1)
    found = true_posterior(Widths(dim), x, torch.zeros(32, dim, dtype=torch.float64), 1000)
    torch.testing.assert_close(found.mean, torch.full_like(found.mean, 0.3), rtol=0, atol=2e-3)
    torch.testing.assert_close(found.log_px, torch.zeros_like(found.log_px), rtol=0, atol=5e-3)


@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_agrees_with_importance_sampling(dim):
    """100,000 samples of the prior: within three of their standard errors for 99 % of 200 examples."""
    model, samples = Sigmoid(dim), 100_000
    x = model.data(200)
    found = true_posterior(model, x, torch.zeros(len(x), dim), chunk=2000)
    assert found.mean.std(0).min() > 0.5, "the latent says nothing"
    agree, evidence, random = [], [], generator()
    with torch.no_grad():
        for one, mean in zip(x, found.mean, strict=True):
            z = model.prior.sample(samples, random)
            log_weights = model.log_prob(one.unsqueeze(0), z.unsqueeze(0))[0].double()
            evidence.append(log_weights.logsumexp(0).item() - math.log(samples))
            weights = log_weights.softmax(0).unsqueeze(1)
            estimate = (weights * z).sum(0)
            error = (weights * (z - estimate)).square().sum(0).sqrt()
            agree += ((estimate - mean).abs() <= 3 * error).tolist()
    assert found.log_px.mean().item() == pytest.approx(sum(evidence) / len(evidence), abs=5e-3)
    assert sum(agree) >= 0.99 * len(agree)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_nothing_depends_on_the_chunk_nor_on_the_other_examples(dim):
    model = LinearGaussian(dim, 0.5)
    x = model.data(9)
    q = Gaussian(model.mean(x) + 0.3, torch.full_like(model.mean(x), -2.0))
    whole = lag(model, x, q, generator(), chunk=5000)
    assert lag(model, x, q, generator(), chunk=7) == pytest.approx(whole, rel=1e-9)
    few = Gaussian(q.mean[:4], q.logvar[:4])
    if dim in inference.GRID_LEVELS:
        both = [true_posterior(model, some, near, 1000).mean[:4] for some, near in ((x, q.mean), (x[:4], few.mean))]
    else:
        both = [refined(model, some, each, generator(), 1000).mean[:4] for some, each in ((x, q), (x[:4], few))]
    torch.testing.assert_close(*both)


def test_decodes_per_example_stay_within_their_budget(monkeypatch):
    for dim, most in ((1, 150), (2, 960)):
        model, decoded = LinearGaussian(dim, 0.3), []
        inner = model.log_prob
        monkeypatch.setattr(model, "log_prob", lambda x, z: decoded.append(z.shape[0] * z.shape[1]) or inner(x, z))
        x = model.data(5)
        lag(model, x, Gaussian(model.mean(x), model.mean(x)), generator(), chunk=40)
        assert max(decoded) <= 40
        assert sum(decoded) <= most * len(x)


# -- KL and refinement ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2])
def test_the_kl_to_the_true_posterior_is_that_of_two_gaussians(dim):
    model = LinearGaussian(dim, 0.6, diagonal=True)
    x = model.data(50)
    truth = model.posterior(x)
    assert lag(model, x, truth, generator(), 500) == pytest.approx({"lag": 0, "lag_kl": 0}, abs=1e-5)
    q = Gaussian(truth.mean + 0.2, truth.logvar - 1)
    expected = dim * 0.5 * (math.exp(-1) + 0.04 / model.covariance[0, 0].item() - 1 + 1)
    found = lag(model, x, q, generator(), 500)
    assert found == pytest.approx({"lag": 0.2 * math.sqrt(dim), "lag_kl": expected}, rel=1e-4)


@pytest.mark.parametrize("dim", [1, 2])
def test_no_gaussian_has_a_negative_kl_to_the_true_posterior(dim):
    model = Sigmoid(dim)
    x = model.data(60)
    truth = true_posterior(model, x, torch.zeros(60, dim), 2000)
    for logvar in (-6.0, -3.0, 0.0):
        q = Gaussian(truth.mean.float(), torch.full((60, dim), logvar))
        assert (truth.log_px - elbo(model, x, q, generator(), 2000)).min() > -1e-3


def test_refinement_finds_a_true_posterior_that_is_gaussian():
    model = LinearGaussian(3, 0.6, diagonal=True)
    x = model.data(40)
    truth = model.posterior(x)
    q = Gaussian(torch.zeros_like(truth.mean), torch.zeros_like(truth.mean))
    found = refined(model, x, q, generator(), chunk=64)
    torch.testing.assert_close(found.mean, truth.mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(found.logvar, truth.logvar, atol=1e-2, rtol=0)
    numbers = lag(model, x, q, generator(), chunk=64)
    assert numbers["lag"] == pytest.approx(truth.mean.norm(dim=1).mean().item(), abs=5e-3)
    kl = torch.distributions.kl_divergence(Normal(q.mean, 1.0), Normal(truth.mean, (0.5 * truth.logvar).exp())).sum(1)
    assert numbers["lag_kl"] == pytest.approx(kl.mean().item(), rel=0.1)
    assert lag(model, x, truth, generator(), chunk=64) == pytest.approx({"lag": 0, "lag_kl": 0}, abs=2e-3)


class Opaque:
    """A posterior of which only samples are known."""

    has_density = has_pairwise = False

    def __init__(self, q: Gaussian):
        self.mean, self.rsample = q.mean, q.rsample


@pytest.mark.parametrize("dim", [2, 3])
def test_a_posterior_without_density_has_a_lag_and_no_kl(dim):
    model = LinearGaussian(dim, 0.6, diagonal=True)
    x = model.data(20)
    numbers = lag(model, x, Opaque(model.posterior(x)), generator(), 500)
    assert numbers["lag"] == pytest.approx(0, abs=5e-3)
    assert math.isnan(numbers["lag_kl"])


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_a_model_is_left_as_it_was(dim, planned, data):
    config = planned("vae").config
    config["model"]["latent_dim"] = dim
    _, model, _ = build_from_config(config)
    model.eval()
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        q = model.encode(data.test[:6])
        first = lag(model, data.test[:6], q, generator(), 100)
    assert first["lag"] > 0 and first["lag_kl"] > -1e-3
    assert first == lag(model, data.test[:6], model.encode(data.test[:6]), generator(), 100)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
