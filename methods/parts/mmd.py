"""The maximum mean discrepancy between two samples."""

import torch
from torch import Tensor

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def multiquadric(squared: Tensor, dim: int) -> Tensor:
    """Inverse multiquadric kernels C / (C + |a - b|²) of squared distances in ``dim`` dimensions, summed over the
    scales; C = 2 dim scale."""
    return sum((1 + squared / (2 * dim * scale)).reciprocal() for scale in SCALES)  # type: ignore[return-value]


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """MMD² of the distributions of a ``[N, D]`` and b ``[N, D]``, unbiased, so now and then below 0; 0 for N = 1."""
    n, dim = a.shape
    if n < 2:
        return a.new_zeros(())
    within = ~torch.eye(n, dtype=torch.bool, device=a.device)
    aa, bb, ab = (multiquadric(_squared(*pair), dim) for pair in ((a, a), (b, b), (a, b)))
    return aa[within].mean() + bb[within].mean() - 2 * ab.mean()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
