"""The von Mises–Fisher distribution on the unit sphere of R^D, D ≥ 2, and the uniform one, its case κ = 0."""

import math

import torch
import torch.nn.functional as F
from scipy.special import gammaln, ive
from torch import Tensor, nn

NODES = 2**14  # of the angle's distribution function


def log_normaliser(dim: int, kappa: float) -> float:
    """log C_D(κ), the density being C_D(κ) exp(κ μ·z)."""
    order = dim / 2 - 1
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - (math.log(ive(order, kappa)) + kappa)


def mean_length(dim: int, kappa: float) -> float:
    """|E z| = I_{D/2}(κ) / I_{D/2-1}(κ)."""
    return float(ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa))


def log_uniform(dim: int) -> float:
    """The log density of the uniform distribution: minus that of the sphere's area."""
    return float(gammaln(dim / 2)) - math.log(2) - dim / 2 * math.log(math.pi)


def kl_to_uniform(dim: int, kappa: float) -> float:
    """KL(vMF(μ, κ) ‖ uniform) in nats; the same for every μ."""
    return kappa * mean_length(dim, kappa) + log_normaliser(dim, kappa) - log_uniform(dim)


def angles(dim: int, kappa: float) -> tuple[Tensor, Tensor]:
    """Nodes of the angle θ between z and μ, and its distribution function there; density ∝ exp(κ cos θ) sin^{D-2} θ."""
    theta = torch.linspace(0, math.pi, NODES, dtype=torch.float64)
    density = (kappa * (theta.cos() - 1)).exp() * theta.sin().clamp_min(0) ** (dim - 2)
    below = F.pad(torch.cumulative_trapezoid(density), (1, 0))
    return theta.float(), (below / below[-1]).float()


class VonMisesFisher:
    """q(z|x) = vMF(direction, κ): directions ``[B, D]`` of length 1, one κ for all; ``table`` is that of ``angles``."""

    has_density = True
    has_pairwise = True

    def __init__(self, direction: Tensor, kappa: float, table: tuple[Tensor, Tensor]):
        self.direction, self.kappa, self.table = direction, kappa, table
        self.log_normaliser = log_normaliser(direction.shape[1], kappa)

    @property
    def mean(self) -> Tensor:
        return mean_length(self.direction.shape[1], self.kappa) * self.direction

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """The angle by its inverse distribution function, and a direction across by projection of a normal one."""
        towards = self.direction.unsqueeze(1)
        (batch, dim), like = self.direction.shape, {"device": towards.device, "dtype": towards.dtype}
        noise = torch.randn(batch, samples, dim, generator=generator, **like)
        uniform = torch.rand(batch, samples, 1, generator=generator, **like)
        theta, below = self.table
        right = torch.searchsorted(below, uniform).clamp(1, len(below) - 1)
        share = (uniform - below[right - 1]) / (below[right] - below[right - 1]).clamp_min(1e-12)
        angle = theta[right - 1] + share * (theta[right] - theta[right - 1])
        across = noise
        for _ in range(2):  # where noise and direction are nearly one, the first projection leaves a part
            across = F.normalize(across - (across * towards).sum(-1, keepdim=True) * towards, dim=-1)
        return angle.cos() * towards + angle.sin() * across

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_normaliser + self.kappa * (z * self.direction.unsqueeze(1)).sum(-1)

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        return self.log_normaliser + self.kappa * z.double() @ self.direction.double().T


class UniformSphere(nn.Module):
    """p(z) uniform on the unit sphere of R^dim."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.full(z.shape[:-1], log_uniform(self.dim), device=z.device, dtype=z.dtype)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        return self.from_standard_normal(torch.randn(count, self.dim, generator=generator, device=device))

    def from_standard_normal(self, u: Tensor) -> Tensor:
        """What makes of u ~ N(0, I) a z of this distribution."""
        return F.normalize(u, dim=-1)

    def kl_dim(self, q: VonMisesFisher) -> None:
        return None

    def kl(self, q: VonMisesFisher) -> Tensor:
        return torch.full((len(q.direction),), kl_to_uniform(self.dim, q.kappa), device=q.direction.device)
