"""Implicit posteriors: a network maps features of x and noise to z."""

from functools import cached_property

import torch
from torch import Tensor, nn

from bench.method import Posterior

MEAN_SAMPLES = 16
UNIFORM = 0.1  # bound of the initial weights


class ImplicitPosterior(Posterior):
    """q(z|x) without a density, z = G(h, ε) for features h (B, F) and ε ~ N(0, I); ``kl`` is an estimate (B,)."""

    has_density = has_pairwise = False

    def __init__(self, h: Tensor, head: "ImplicitHead", kl: Tensor | None = None) -> None:
        self.h, self.head = h, head
        if kl is not None:
            self.kl = kl

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        size = (len(self.h), samples, self.head.dim)
        noise = torch.randn(size, generator=generator, device=self.h.device, dtype=self.h.dtype)
        return self.head.linear(torch.cat([self.h.unsqueeze(1).expand(-1, samples, -1), noise], dim=-1))

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:  # type: ignore[override]
        """Monte-Carlo mean (B, D) with fixed noise, without a gradient."""
        return self.rsample(MEAN_SAMPLES, torch.Generator(self.h.device).manual_seed(0)).mean(1)


class ImplicitHead(nn.Module):
    """Features (B, F) -> ``ImplicitPosterior``, whose G is one linear layer."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.dim, self.linear = dim, nn.Linear(features + dim, dim)
        for weight in self.linear.parameters():
            nn.init.uniform_(weight, -UNIFORM, UNIFORM)

    def forward(self, h: Tensor) -> ImplicitPosterior:
        return ImplicitPosterior(h, self)
