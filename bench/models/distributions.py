"""Posteriors and priors. All densities are in nats.

Shapes: B examples, S samples per example, D latent dimensions, N samples without an example.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class Posterior:
    """q(z|x) for a batch of examples; base class of all posteriors."""

    has_density: bool = True  # ``log_prob`` is available
    has_pairwise: bool = True  # ``pairwise_log_prob`` is available
    mean: Tensor  # (B, D)
    kl: Tensor  # (B,): estimate of KL(q || p), only if there is no density

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return reparametrised samples (B, S, D)."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z|x) of each example's own samples: (B, S, D) -> (B, S)."""
        raise NotImplementedError

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z_n|x_b) of all pairs: (N, D) -> (N, B), float64."""
        raise NotImplementedError


class Prior(nn.Module):
    """p(z) over ``dim`` dimensions; base class of all priors.

    A prior whose support is not R^D also implements ``from_standard_normal``: u (…, D) ~ N(0, I) -> z (…, D) ~ p(z).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z): (…, D) -> (…)."""
        raise NotImplementedError

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return samples (count, D)."""
        raise NotImplementedError

    def kl_dim(self, q: Posterior) -> Tensor | None:
        """Return KL(q(z_d|x) || p(z_d)) (B, D), or None without a closed form."""
        return None

    def kl(self, q: Posterior) -> Tensor | None:
        """Return KL(q(z|x) || p(z)) (B,), or None without a closed form."""
        return None


class Gaussian(Posterior):
    """q(z|x) = N(mean, diag exp(logvar)), with mean and logvar (B, D). D = 0 is the posterior of a model without z."""

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean, self.logvar = mean, logvar

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        batch, dim = self.mean.shape
        noise = torch.randn(batch, samples, dim, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean.unsqueeze(1) + (0.5 * self.logvar).exp().unsqueeze(1) * noise

    def log_prob(self, z: Tensor) -> Tensor:
        mean, logvar = self.mean.unsqueeze(1), self.logvar.unsqueeze(1)  # (B, 1, D)
        return -0.5 * ((z - mean).square() * (-logvar).exp() + logvar + LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy (B,)."""
        return 0.5 * (self.logvar + LOG_2PI + 1).sum(-1)

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z_n|x_b) of all pairs: (N, D) -> (N, B), by two matrix products instead of an (N, B, D) tensor.

        Computed in float64, because the products nearly cancel for narrow posteriors.
        """
        z, mean, logvar = z.double(), self.mean.double(), self.logvar.double()
        precision = (-logvar).exp()
        quadratic = z.square() @ precision.T - 2 * z @ (mean * precision).T + (mean.square() * precision).sum(-1)
        return -0.5 * (quadratic + logvar.sum(-1) + mean.shape[1] * LOG_2PI)


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """Return KL(q || p) (B,) of diagonal Gaussians."""
    squared = ((q.mean - p.mean).square() + q.logvar.exp()) * (-p.logvar).exp()
    return 0.5 * (squared - 1 + p.logvar - q.logvar).sum(-1)


class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + LOG_2PI).sum(-1)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        return torch.randn(count, self.dim, generator=generator, device=device)

    def kl_dim(self, q: Posterior) -> Tensor | None:
        if not isinstance(q, Gaussian):
            return None
        return 0.5 * (q.mean.square() + q.logvar.exp() - q.logvar - 1)

    def kl(self, q: Posterior) -> Tensor | None:
        kl_dim = self.kl_dim(q)
        return None if kl_dim is None else kl_dim.sum(-1)
