"""The von Mises–Fisher (vMF) distribution on the unit sphere of R^D, D ≥ 2, and the uniform one, its case κ = 0."""

import math

import torch
import torch.nn.functional as F
from scipy.special import gammaln, hyp0f1, ive
from torch import Tensor

from bench.method import Posterior, Prior

NODES = 2**14  # of the angle's tabulated distribution function


def log_bessel(order: float, kappa: float) -> float:
    """Return log(I_order(κ) e^-κ)."""
    if value := ive(order, kappa):
        return math.log(value)
    # κ is far below the order, and the power (κ/2)^order underflows: DLMF 10.39.9.
    return order * math.log(kappa / 2) - float(gammaln(order + 1)) + math.log(hyp0f1(order + 1, kappa**2 / 4)) - kappa


def log_normaliser(dim: int, kappa: float) -> float:
    """Return log C_D(κ) of the density C_D(κ) exp(κ μ·z)."""
    order = dim / 2 - 1
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - (log_bessel(order, kappa) + kappa)


def mean_length(dim: int, kappa: float) -> float:
    """Return |E z| = I_{D/2}(κ) / I_{D/2-1}(κ)."""
    return math.exp(log_bessel(dim / 2, kappa) - log_bessel(dim / 2 - 1, kappa))


def log_uniform(dim: int) -> float:
    """Return the log density of the uniform distribution, minus the log area of the sphere."""
    return float(gammaln(dim / 2)) - math.log(2) - dim / 2 * math.log(math.pi)


def kl_to_uniform(dim: int, kappa: float) -> float:
    """Return KL(vMF(μ, κ) || uniform) in nats, which does not depend on μ (Davidson et al., UAI 2018)."""
    return kappa * mean_length(dim, kappa) + log_normaliser(dim, kappa) - log_uniform(dim)


def angle_cdf(dim: int, kappa: float) -> tuple[Tensor, Tensor]:
    """Tabulate the angle θ between z and μ, with density ∝ exp(κ cos θ) sin^{D-2} θ: nodes and their CDF (NODES,)."""
    theta = torch.linspace(0, math.pi, NODES, dtype=torch.float64)
    density = (kappa * (theta.cos() - 1)).exp() * theta.sin().clamp_min(0) ** (dim - 2)
    cdf = F.pad(torch.cumulative_trapezoid(density), (1, 0))
    return theta.float(), (cdf / cdf[-1]).float()


class VonMisesFisher(Posterior):
    """q(z|x) = vMF(direction, κ), with directions (B, D) of unit length and one κ; ``cdf_table`` from ``angle_cdf``."""

    def __init__(self, direction: Tensor, kappa: float, cdf_table: tuple[Tensor, Tensor]) -> None:
        self.direction, self.kappa, self.cdf_table = direction, kappa, cdf_table
        self.log_normaliser = log_normaliser(direction.shape[1], kappa)
        self.mean = mean_length(direction.shape[1], kappa) * direction

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample the angle by inversion of its CDF and the tangent direction by projection of a normal sample."""
        direction = self.direction.unsqueeze(1)  # (B, 1, D)
        (batch, dim), device, dtype = self.direction.shape, direction.device, direction.dtype
        noise = torch.randn(batch, samples, dim, generator=generator, device=device, dtype=dtype)
        uniform = torch.rand(batch, samples, 1, generator=generator, device=device, dtype=dtype)
        theta, cdf = self.cdf_table
        upper_index = torch.searchsorted(cdf, uniform).clamp(1, len(cdf) - 1)
        lower_index = upper_index - 1
        fraction = (uniform - cdf[lower_index]) / (cdf[upper_index] - cdf[lower_index]).clamp_min(1e-12)
        angle = theta[lower_index] + fraction * (theta[upper_index] - theta[lower_index])
        tangent = noise
        for _ in range(2):  # repeated, because one projection is inaccurate if noise and direction nearly coincide
            tangent = F.normalize(tangent - (tangent * direction).sum(-1, keepdim=True) * direction, dim=-1)
        return angle.cos() * direction + angle.sin() * tangent

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_normaliser + self.kappa * (z * self.direction.unsqueeze(1)).sum(-1)

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        return self.log_normaliser + self.kappa * z.double() @ self.direction.double().T


class UniformSphere(Prior):
    """p(z) uniform on the unit sphere of R^D."""

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.full(z.shape[:-1], log_uniform(self.dim), device=z.device, dtype=z.dtype)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        return self.from_standard_normal(torch.randn(count, self.dim, generator=generator, device=device))

    def from_standard_normal(self, u: Tensor) -> Tensor:
        """Map u (…, D) ~ N(0, I) to a sample (…, D)."""
        return F.normalize(u, dim=-1)

    def kl(self, q: Posterior) -> Tensor | None:
        if not isinstance(q, VonMisesFisher):
            return None
        return torch.full((len(q.direction),), kl_to_uniform(self.dim, q.kappa), device=q.direction.device)
