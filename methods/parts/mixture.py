"""Priors that are mixtures of diagonal Gaussians, with equal weights."""

import math

import torch
from torch import Tensor, nn

from bench.models.distributions import Gaussian


class MixturePrior(nn.Module):
    """p(z) = 1/K Σ_k N(z; m_k, v_k). A subclass gives ``components()``, the K of them as one Gaussian ``[K, D]``."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def components(self) -> Gaussian:
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        components = self.components()
        each = components.pairwise_log_prob(z.reshape(-1, self.dim))
        log_prob = each.logsumexp(1) - math.log(len(components.mean))
        return log_prob.view(z.shape[:-1]).to(z.dtype)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        components = self.components()
        which = torch.randint(len(components.mean), (count,), generator=generator, device=device)
        noise = torch.randn(count, self.dim, generator=generator, device=device)
        return components.mean[which] + (0.5 * components.logvar[which]).exp() * noise

    def kl_dim(self, q) -> None:
        return None

    def kl(self, q) -> None:
        return None
