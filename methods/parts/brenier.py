"""Brenier maps: gradients of convex networks, which are injective."""

import torch
from torch import Tensor, nn

LEAK = 0.2  # slope of the leaky ReLU below 0


class Brenier(nn.Module):
    """z ``[…, D]`` -> ∇F(z) + L z, F an input-convex network of two layers.

    h = a(W z + b)², F = w · a(P h + A z + c) with P, w > 0 and a the leaky ReLU. The Jacobian Wᵀ diag(…) W + L I is
    symmetric, and positive definite where W has full rank, which a width of 2 D gives, or L > 0: then distances grow by
    L at least. The gradient is written out, so that it can be taken without autograd, and differentiated once like any
    layer.
    """

    def __init__(self, dim: int, inverse_lipschitz: float = 0.0):
        super().__init__()
        width = 2 * dim
        self.first, self.across = nn.Linear(dim, width), nn.Linear(dim, width)
        nn.init.normal_(self.first.weight, std=width**-0.5)  # near an isometry
        self.log_inner = nn.Parameter(torch.full((width, width), 1 / width).log() + 0.1 * torch.randn(width, width))
        self.log_outer = nn.Parameter(0.1 * torch.randn(width))
        self.inverse_lipschitz = inverse_lipschitz

    def forward(self, z: Tensor) -> Tensor:
        slope, at = _leaky(self.first(z))
        inner = self.log_inner.exp()
        of_outer = self.log_outer.exp() * _leaky(at.square() @ inner.T + self.across(z))[0]
        gradient = (of_outer @ inner * 2 * at * slope) @ self.first.weight + of_outer @ self.across.weight
        return gradient + self.inverse_lipschitz * z


def _leaky(u: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and value of the leaky ReLU."""
    slope = torch.where(u > 0, 1.0, LEAK)
    return slope, slope * u
