"""Priors that are uniform mixtures of diagonal Gaussians."""

import math

import torch
from torch import Tensor

from bench.method import Gaussian, Prior


class MixturePrior(Prior):
    """p(z) = 1/K Σ_k N(z; m_k, v_k)."""

    def components(self) -> Gaussian:
        """Return the components as one Gaussian (K, D)."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        components = self.components()
        log_probs = components.pairwise_log_prob(z.reshape(-1, self.dim))  # (N, K)
        log_prob = log_probs.logsumexp(1) - math.log(len(components.mean))
        return log_prob.view(z.shape[:-1]).to(z.dtype)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        components = self.components()
        index = torch.randint(len(components.mean), (count,), generator=generator, device=device)
        noise = torch.randn(count, self.dim, generator=generator, device=device)
        return components.mean[index] + (0.5 * components.logvar[index]).exp() * noise
