"""Maximum mean discrepancy (MMD) with inverse multiquadric kernels."""

import torch
from torch import Tensor

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def multiquadric(squared: Tensor, dim: int) -> Tensor:
    """Return Σ_scales C / (C + squared), C = 2 · dim · scale, for squared distances (…); the squared distance of two
    samples of N(0, I) in ``dim`` dimensions is 2 · dim in the mean.
    """
    return sum((1 + squared / (2 * dim * scale)).reciprocal() for scale in SCALES)  # type: ignore[return-value]


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD² from samples a (N, D) and b (N, D), a scalar; 0 for N = 1."""
    n, dim = a.shape
    if n < 2:
        return a.new_zeros(())
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=a.device)
    aa, bb, ab = (
        multiquadric((u.unsqueeze(1) - v).square().sum(-1), dim) for u, v in ((a, a), (b, b), (a, b))
    )  # (N, N)
    return aa[off_diagonal].mean() + bb[off_diagonal].mean() - 2 * ab.mean()
