"""Brenier maps: gradients of convex functions, which are injective."""

import math

import torch
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU below 0
MIN_SCALE = 0.1  # of the convex part's Jacobian at the start
ACROSS_SCALE = 0.05  # of A at the start, relative to PyTorch's default


class Brenier(nn.Module):
    """z -> ∇F(z) + L z, with an input-convex network F of two layers: (…, D) -> (…, D).

    h = a(W z + b)², F = w · a(P h + A z + c), with P, w > 0 and the leaky ReLU a. The Jacobian Wᵀ diag(…) W + L I is
    symmetric; it is positive definite if W has full column rank (width 2 D) or L > 0, and then the map expands
    distances by at least L. The gradient is written out, so a forward pass needs no autograd.

    Starts near an isometry: the rows of W are those of a scaled orthogonal matrix Q and of -Q, of which exactly one of
    each pair is in the leaky ReLU's upper branch, so that Wᵀ diag(…) W is nearly a multiple of I. A is small: it adds
    Aᵀ (…), whose length does not depend on that of z, and the decoder of text starts with short inputs.
    """

    def __init__(self, dim: int, inverse_lipschitz: float = 0.0) -> None:
        super().__init__()
        width = 2 * dim
        self.first, self.across = nn.Linear(dim, width), nn.Linear(dim, width)  # W, b and A, c
        self.log_inner = nn.Parameter(torch.full((width, width), 1 / width).log() + 0.1 * torch.randn(width, width))
        self.log_outer = nn.Parameter(0.1 * torch.randn(width))
        self.inverse_lipschitz = inverse_lipschitz
        scale = max(1 - inverse_lipschitz, MIN_SCALE) / (2 * (1 + SLOPE**2))
        with torch.no_grad():
            q = math.sqrt(scale) * nn.init.orthogonal_(torch.empty(dim, dim))
            a = ACROSS_SCALE * self.across.weight[:dim]
            for layer, rows in ((self.first, q), (self.across, a)):
                layer.weight.copy_(torch.cat([rows, -rows]))
                layer.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        inner, outer = self.log_inner.exp(), self.log_outer.exp()  # P (2D, 2D), w (2D,)
        slope, activation = _leaky_relu(self.first(z))  # (…, 2D)
        grad_outer = outer * _leaky_relu(activation.square() @ inner.T + self.across(z))[0]
        gradient = (grad_outer @ inner * 2 * activation * slope) @ self.first.weight + grad_outer @ self.across.weight
        return gradient + self.inverse_lipschitz * z


def _leaky_relu(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and value of the leaky ReLU."""
    slope = torch.where(u > 0, 1.0, SLOPE)
    return slope, slope * u
