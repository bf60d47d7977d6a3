"""Implicit posteriors: a network maps features of x and noise to z."""

from functools import cached_property

import torch
from torch import Tensor, nn

from bench.method import Posterior

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
        return self.transform(noise)

    def transform(self, noise: Tensor) -> Tensor:
        """Return z (B, S, D) for noise (B, S, D)."""
        return self.head.linear(torch.cat([self.h.unsqueeze(1).expand(-1, noise.shape[1], -1), noise], dim=-1))

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:  # type: ignore[override]
        """Mean (B, D), without a gradient: G is linear, so it is that of a noise of 0."""
        return self.transform(self.h.new_zeros(len(self.h), 1, self.head.dim)).squeeze(1)


class ImplicitHead(nn.Module):
    """Features (B, F) -> ``ImplicitPosterior``, whose G is one linear layer."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.dim, self.linear = dim, nn.Linear(features + dim, dim)
        for weight in self.linear.parameters():
            nn.init.uniform_(weight, -UNIFORM, UNIFORM)

    def forward(self, h: Tensor) -> ImplicitPosterior:
        return ImplicitPosterior(h, self)
