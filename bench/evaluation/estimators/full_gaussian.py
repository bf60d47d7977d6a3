"""Gaussians with a full covariance, fitted to the true posterior p(z|x) of each example.

A diagonal Gaussian cannot follow a posterior along a narrow ridge that is not parallel to an axis. Newton steps can:
they are exact for a Gaussian posterior, however narrow. Everything but the decoder is in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.distributions import LOG_2PI, Gaussian
from bench.models.vae import VAE, second_order

MAX_PAIRS_WITH_GRADIENT = 32  # (example, sample) pairs decoded at a time with gradients: a training batch
ITERATIONS = 12
MAX_RESCALING = 4.0  # factor by which one iteration may change the scale along a principal axis
LOG_VARIANCES = (-60.0, 60.0)  # of a diagonal Gaussian that is not degenerate
MAX_STEP = 10.0  # length of a Newton step, in units of the current scale


class FullGaussian:
    """N(mean, root rootᵀ) of B examples: ``mean`` ``[B, D]`` and ``root`` ``[B, D, D]``, float64.

    ``dtype`` is that of the decoder.
    """

    def __init__(self, mean: Tensor, root: Tensor, dtype: torch.dtype) -> None:
        self.mean, self.root, self.dtype = mean, root, dtype

    @classmethod
    def diagonal(cls, gaussian: Gaussian) -> FullGaussian:
        """Return a diagonal Gaussian in this form, with finite numbers."""
        logvar = gaussian.logvar.double().nan_to_num(0).clamp(*LOG_VARIANCES)
        root = torch.diag_embed((0.5 * logvar).exp())
        return cls(gaussian.mean.double().nan_to_num(0), root, gaussian.mean.dtype)

    def __getitem__(self, rows: Tensor) -> FullGaussian:
        """Return the Gaussians of some examples."""
        return FullGaussian(self.mean[rows], self.root[rows], self.dtype)

    def widened(self, factor: float) -> FullGaussian:
        """Return the Gaussian with ``factor`` times the scale."""
        return FullGaussian(self.mean, factor * self.root, self.dtype)

    def transform(self, u: Tensor) -> Tensor:
        """Map standard normal u ``[B, S, D]`` to z ``[B, S, D]``, float64."""
        return self.mean.unsqueeze(1) + u.double() @ self.root.mT

    def whiten(self, z: Tensor) -> Tensor:
        """Map z ``[B, S, D]`` to u, float64; the inverse of ``transform``."""
        return torch.linalg.solve(self.root, (z.double() - self.mean.unsqueeze(1)).mT).mT

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density: ``[B, S, D]`` -> ``[B, S]``."""
        return -0.5 * (self.whiten(z).square() + LOG_2PI).sum(-1) - self.log_volume().unsqueeze(1)

    def log_volume(self) -> Tensor:
        """Return log |det root| ``[B]``."""
        return torch.linalg.slogdet(self.root).logabsdet

    def smallest_scale(self) -> Tensor:
        """Return the standard deviation along the shortest principal axis ``[B]``."""
        return torch.linalg.svdvals(self.root)[:, -1]


def fit_full_gaussian(
    model: VAE, x: Tensor, start: FullGaussian, chunk: int, iterations: int = ITERATIONS
) -> FullGaussian:
    """Fit a Gaussian to p(z|x) of each x ``[B, …]`` by Newton steps from ``start``.

    Gradient and curvature of log p(x, z) are averages over the points at one standard deviation from the mean on both
    sides of each axis, in coordinates in which the current fit is N(0, I). An iteration takes 2D decodings with
    gradients per example.
    """
    fit = start
    directions = torch.eye(start.mean.shape[1]).to(start.mean).expand(len(x), -1, -1)
    points = torch.cat([directions, -directions], dim=1)  # (B, 2D, D)
    for _ in range(iterations):
        gradients = joint_gradient(model, x, fit.transform(points).to(fit.dtype), chunk).double() @ fit.root
        gradients = gradients.nan_to_num(0, 0, 0)  # of a model that diverged
        above, below = gradients.chunk(2, dim=1)
        curvature = 0.5 * (below - above)
        values, axes = torch.linalg.eigh(0.5 * (curvature + curvature.mT))
        values = values.clamp(MAX_RESCALING**-2, MAX_RESCALING**2)
        step = axes @ ((axes.mT @ gradients.mean(1).unsqueeze(2)) / values.unsqueeze(2))  # (B, D, 1)
        step = step * (MAX_STEP / torch.linalg.vector_norm(step, dim=1, keepdim=True)).clamp(max=1)
        mean = fit.mean + (fit.root @ step).squeeze(2)
        fit = FullGaussian(mean, fit.root @ axes * values.rsqrt().unsqueeze(1), fit.dtype)
    return fit


@torch.enable_grad()
def joint_gradient(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """Return the gradient of log p(x, z) by z: x ``[B, …]``, z ``[B, S, D]`` -> ``[B, S, D]``."""
    budget, parts = min(chunk, MAX_PAIRS_WITH_GRADIENT), []
    for examples, codes in zip(x.split(budget), z.split(budget), strict=True):
        samples = max(1, budget // len(examples))
        gradients = []
        for part in codes.split(samples, dim=1):
            part = part.detach().requires_grad_()
            with second_order(model):  # gradients in evaluation mode
                log_joint = model.log_prob(examples, part) + model.prior.log_prob(part)
                gradients += torch.autograd.grad(log_joint.sum(), [part])
        parts.append(torch.cat(gradients, dim=1))
    return torch.cat(parts)
