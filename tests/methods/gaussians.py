"""Small posteriors, terms and contexts for tests of losses."""

from types import SimpleNamespace

import torch
from torch import Tensor

from bench.method import ELBOTerms, Phase
from bench.models.distributions import Gaussian, StandardNormal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussians(batch: int = 6, dim: int = 3) -> Gaussian:
    return Gaussian(*torch.randn(2, batch, dim, generator=generator(), dtype=torch.float64))


def split(h: Tensor) -> Gaussian:
    """A head whose features are mean and log-variance."""
    return Gaussian(*h.chunk(2, dim=-1))


def elbo_terms(q: Gaussian, z: Tensor | None = None) -> ELBOTerms:
    """Terms with a reconstruction loss of 0."""
    kl_dim = StandardNormal(q.mean.shape[1]).kl_dim(q)
    return ELBOTerms(None, q, z, torch.zeros(len(q.mean), 1, dtype=torch.float64), kl_dim.sum(-1), kl_dim)


def context(**attributes) -> SimpleNamespace:
    defaults = {"beta": 1.0, "model": SimpleNamespace(prior=StandardNormal(3), aux={}), "phase": Phase()}
    return SimpleNamespace(**defaults | attributes)
