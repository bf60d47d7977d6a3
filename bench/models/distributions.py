"""Posteriors and priors.

A **posterior** is an object that holds q(z|x) for a batch of B examples with D latent dimensions:
``rsample(S, generator) -> [B, S, D]``, ``log_prob(z [B, S, D]) -> [B, S]``, ``mean [B, D]``, and where it can
``pairwise_log_prob(z [N, D]) -> [N, B]``; ``has_density`` and ``has_pairwise`` say what it can. One without a density
gives an estimate of its KL to the prior: ``kl [B]``.
A **prior** is a module: ``log_prob``, ``sample``, and ``kl_dim(q) -> [B, D]``, ``kl(q) -> [B]``, analytic or None.
One that is not on all of R^D is what ``carry(u)`` makes of u ~ N(0, I): ``[…, D] -> […, D]``.
All densities are in nats.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class Posterior(Protocol):
    has_density: bool
    has_pairwise: bool
    mean: Tensor

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor: ...
    def log_prob(self, z: Tensor) -> Tensor: ...
    def pairwise_log_prob(self, z: Tensor) -> Tensor: ...


class Gaussian:
    """q(z|x) = N(mean, exp(logvar)), diagonal; mean and logvar ``[B, D]``. D = 0 is the posterior of no latent."""

    has_density = True
    has_pairwise = True

    def __init__(self, mean: Tensor, logvar: Tensor):
        self.mean, self.logvar = mean, logvar

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        batch, dim = self.mean.shape
        noise = torch.randn(batch, samples, dim, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean.unsqueeze(1) + (0.5 * self.logvar).exp().unsqueeze(1) * noise

    def log_prob(self, z: Tensor) -> Tensor:
        mean, logvar = self.mean.unsqueeze(1), self.logvar.unsqueeze(1)
        return -0.5 * ((z - mean).square() * (-logvar).exp() + logvar + LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return 0.5 * (self.logvar + LOG_2PI + 1).sum(-1)

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        """log q(z_n | x_b) for every pair: ``[N, D] -> [N, B]``, by two matrix products instead of ``[N, B, D]``.

        In float64, since the products nearly cancel where a posterior is narrow.
        """
        z, mean, logvar = z.double(), self.mean.double(), self.logvar.double()
        precision = (-logvar).exp()
        quadratic = z.square() @ precision.T - 2 * z @ (mean * precision).T + (mean.square() * precision).sum(-1)
        return -0.5 * (quadratic + logvar.sum(-1) + mean.shape[1] * LOG_2PI)


class StandardNormal(nn.Module):
    """p(z) = N(0, I) in ``dim`` dimensions."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + LOG_2PI).sum(-1)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        return torch.randn(count, self.dim, generator=generator, device=device)

    def kl_dim(self, q: Posterior) -> Tensor | None:
        """KL(q(z_d|x) ‖ p(z_d)) ``[B, D]`` where q is a diagonal Gaussian, else None."""
        if not isinstance(q, Gaussian):
            return None
        return 0.5 * (q.mean.square() + q.logvar.exp() - q.logvar - 1)

    def kl(self, q: Posterior) -> Tensor | None:
        kl_dim = self.kl_dim(q)
        return None if kl_dim is None else kl_dim.sum(-1)
