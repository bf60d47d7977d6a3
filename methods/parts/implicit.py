"""Posteriors without a density: what a network makes of features and noise."""

from functools import cached_property

import torch
from torch import nn

SAMPLES = 16  # for means, and for estimates outside training


def network(inputs, outputs, hidden, depth):
    layers = [nn.Linear(inputs, hidden), nn.LeakyReLU(0.2)]
    for _ in range(depth - 1):
        layers += [nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


class Implicit:
    """q(z|x) for features h ``[B, F]``; ``kl`` is an estimate that training and metrics are given."""

    has_density = has_pairwise = False
    kl = None

    def __init__(self, h, head):
        self.h, self.head = h, head

    def rsample(self, samples, generator=None):
        size = (len(self.h), samples, self.head.dim)
        noise = torch.randn(size, generator=generator, device=self.h.device, dtype=self.h.dtype)
        return self.head.network(torch.cat([self.h.unsqueeze(1).expand(-1, samples, -1), noise], dim=-1))

    def log_prob(self, z):
        raise NotImplementedError("an implicit posterior has no density")

    @cached_property
    @torch.no_grad()
    def mean(self):
        return self.rsample(SAMPLES, torch.Generator(self.h.device).manual_seed(0)).mean(1)


class ImplicitHead(nn.Module):
    def __init__(self, features, dim, hidden):
        super().__init__()
        self.dim, self.network = dim, network(features + dim, dim, hidden, depth=2)

    def forward(self, h):
        return Implicit(h, self)
