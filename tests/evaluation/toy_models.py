"""Decoders whose evidence, posterior or information is known."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import softplus

from bench.models.distributions import Gaussian, StandardNormal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LinearGaussian(nn.Module):
    """Probabilistic PCA in float64: p(z) = N(0, I), p(x|z) = N(Wz, s² I).

    With ``diagonal``, W has orthonormal columns, so that the true posterior is a diagonal Gaussian.
    """

    def __init__(self, dim: int, scale: float, diagonal: bool = False, pixels: int = 6):
        super().__init__()
        self.prior, self.scale, self.latent_dim = StandardNormal(dim), scale, dim
        weight = torch.randn(pixels, dim, generator=generator(), dtype=torch.float64)
        self.set_weight(torch.linalg.qr(weight)[0] if diagonal else weight)

    def set_weight(self, weight: Tensor) -> None:
        self.weight = nn.Parameter(weight, requires_grad=False)
        precision = torch.eye(self.latent_dim) + weight.T @ weight / self.scale**2
        self.covariance = precision.inverse()  # of the true posterior, for every x

    def data(self, count: int) -> Tensor:
        dim, pixels = self.weight.shape[1], len(self.weight)
        noise = torch.randn(2, count, max(dim, pixels), generator=generator(), dtype=torch.float64)
        return noise[0, :, :dim] @ self.weight.T + self.scale * noise[1, :, :pixels]

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(z @ self.weight.T, self.scale).log_prob(x.unsqueeze(1)).sum(-1)

    def log_px(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.weight))
        return MultivariateNormal(x.new_zeros(len(self.weight)), covariance).log_prob(x)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of the true posterior."""
        return x @ self.weight @ self.covariance / self.scale**2

    def mean_field(self, x: Tensor, offset: float = 0.0) -> Gaussian:
        """The diagonal Gaussian of highest ELBO (the true posterior if ``diagonal``), its means off by ``offset``."""
        mean = self.mean(x)
        return Gaussian(mean + offset, -self.covariance.inverse().diagonal().log().expand_as(mean))


def with_ridge(ratio: float, wide: float = 0.7) -> LinearGaussian:
    """Two dimensions; the posterior's standard deviations are ``wide`` and ``wide / ratio``, at 34° to the axes."""
    model = LinearGaussian(2, 1.0, diagonal=True)
    scales = torch.tensor([wide, wide / ratio], dtype=torch.float64)
    cosine, sine = math.cos(0.6), math.sin(0.6)
    rotation = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    model.set_weight(model.weight * (scales**-2 - 1).sqrt() @ rotation)
    return model


def with_parallel_columns(dim: int, scale: float, pixels: int = 10) -> LinearGaussian:
    """All dimensions have nearly the same effect on x."""
    model = LinearGaussian(dim, scale, pixels=pixels)
    shared = torch.randn(pixels, 1, generator=generator(3), dtype=torch.float64)
    model.set_weight(3 * (shared + 0.03 * model.weight))
    return model


class Sigmoid(nn.Module):
    """A nonlinear decoder of 20 binary pixels with random weights."""

    def __init__(self, dim: int):
        super().__init__()
        self.latent_dim = dim
        self.prior, self.hidden, self.logits = StandardNormal(dim), nn.Linear(dim, 16), nn.Linear(16, 20)
        random = generator()
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=random)

    def scores(self, z: Tensor) -> Tensor:
        return self.logits(self.hidden(z).tanh())

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        scores = self.scores(z)
        return (scores @ x.unsqueeze(2)).squeeze(2) - softplus(scores).sum(-1)

    @torch.no_grad()
    def data(self, count: int) -> Tensor:
        z = self.prior.sample(count, generator())
        return torch.bernoulli(self.scores(z).sigmoid(), generator=generator())


class Mixture(nn.Module):
    """p(z|x) is an equal mixture of Gaussians of one ``scale``, and p(x) = 1, for every x."""

    def __init__(self, centres: list[list[float]], scale: float):
        super().__init__()
        self.centres, self.scale = torch.tensor(centres, dtype=torch.float64), scale
        self.prior = StandardNormal(self.centres.shape[1])

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        components = Normal(self.centres, self.scale).log_prob(z.unsqueeze(2)).sum(-1)
        return torch.logsumexp(components, dim=2) - math.log(len(self.centres)) - self.prior.log_prob(z)


class SamplesOnly:
    """A posterior that can only be sampled."""

    has_density = has_pairwise = False

    def __init__(self, q: Gaussian):
        self.mean, self.rsample = q.mean, q.rsample


def log_weights(model: LinearGaussian, x: Tensor, q: Gaussian, samples: int) -> Tensor:
    z = q.rsample(samples, generator(1))
    return model.log_prob(x, z) + model.prior.log_prob(z) - q.log_prob(z)


def record_pairs(monkeypatch, model: nn.Module) -> list[int]:
    """Return a list that receives the number of (example, sample) pairs of each decoder call."""
    pairs, log_prob = [], model.log_prob
    monkeypatch.setattr(model, "log_prob", lambda x, z: pairs.append(len(z) * z.shape[1]) or log_prob(x, z))
    return pairs


def standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values))
