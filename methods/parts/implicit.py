"""Implicit posteriors: a network maps features of x and noise to z."""

from functools import cached_property

import torch
from torch import Tensor, nn

from bench.method import Posterior

MEAN_SAMPLES = 16


def mlp(inputs: int, outputs: int, hidden: int, depth: int) -> nn.Sequential:
    """Return a leaky-ReLU network with ``depth`` hidden layers."""
    layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.LeakyReLU(0.2)]
    for _ in range(depth - 1):
        layers += [nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


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
        return self.head.network(torch.cat([self.h.unsqueeze(1).expand(-1, samples, -1), noise], dim=-1))

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:  # type: ignore[override]
        """Monte-Carlo mean (B, D) with fixed noise, without a gradient."""
        return self.rsample(MEAN_SAMPLES, torch.Generator(self.h.device).manual_seed(0)).mean(1)


class ImplicitHead(nn.Module):
    """Features (B, F) -> ``ImplicitPosterior``."""

    def __init__(self, features: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.network = dim, mlp(features + dim, dim, hidden, depth=2)

    def forward(self, h: Tensor) -> ImplicitPosterior:
        return ImplicitPosterior(h, self)
