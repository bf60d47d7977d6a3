"""Probabilistic PCA: a VAE with a linear decoder, whose evidence, posterior and information have closed forms."""

import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from bench.models.distributions import Gaussian, StandardNormal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LinearGaussian(nn.Module):
    """p(z) = N(0, I), p(x|z) = N(Wz, s² I) over ``pixels``. Float64 throughout.

    ``diagonal``: W has orthonormal columns, so that the true posterior is a diagonal Gaussian.
    """

    def __init__(self, dim: int, scale: float, diagonal: bool = False, pixels: int = 6):
        super().__init__()
        self.prior, self.scale, self.latent_dim = StandardNormal(dim), scale, dim
        weight = torch.randn(pixels, dim, generator=generator(), dtype=torch.float64)
        self.weight = nn.Parameter(torch.linalg.qr(weight)[0] if diagonal else weight, requires_grad=False)
        precision = torch.eye(dim) + self.weight.T @ self.weight / scale**2
        self.covariance = precision.inverse()  # of the true posterior, whatever x

    def data(self, count: int) -> torch.Tensor:
        """``[count, pixels]`` from the model."""
        dim, pixels = self.weight.shape[1], len(self.weight)
        noise = torch.randn(2, count, max(dim, pixels), generator=generator(), dtype=torch.float64)
        return noise[0, :, :dim] @ self.weight.T + self.scale * noise[1, :, :pixels]

    def log_prob(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return Normal(z @ self.weight.T, self.scale).log_prob(x.unsqueeze(1)).sum(-1)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Of the true posterior."""
        return x @ self.weight @ self.covariance / self.scale**2

    def log_px(self, x: torch.Tensor) -> torch.Tensor:
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.weight))
        return MultivariateNormal(x.new_zeros(len(self.weight)), covariance).log_prob(x)

    def posterior(self, x: torch.Tensor) -> Gaussian:
        """The true one where its covariance is diagonal."""
        mean = self.mean(x)
        return Gaussian(mean, self.covariance.diagonal().log().expand_as(mean))

    def exact_samples(self, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
        """One z ~ p(z|x) for each x: ``[N, D]``."""
        noise = torch.randn(len(x), self.latent_dim, generator=generator(seed), dtype=torch.float64)
        return self.mean(x) + noise @ torch.linalg.cholesky(self.covariance).T

    def mean_field(self, x: torch.Tensor, offset: float = 0.0) -> Gaussian:
        """The diagonal Gaussian of highest ELBO, its means off by ``offset``."""
        mean = self.mean(x)
        return Gaussian(mean + offset, -self.covariance.inverse().diagonal().log().expand_as(mean))
