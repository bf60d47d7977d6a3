"""How much of the latent is in use: by the encoder, dimension by dimension, and by the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.estimators.mutual_information import Prior
from bench.models.distributions import Gaussian, Posterior, StandardNormal
from bench.models.vae import VAE


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean varies over the data by more than ``threshold``: ``[N, D]`` -> count.

    Unbiased variance of posterior means, not of samples (Burda et al., ICLR 2016).
    """
    return int((means.double().var(dim=0) > threshold).sum())


def informative_units(kl_dim: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose KL to the prior is on average above ``threshold`` nats: ``[N, D]`` -> count.

    Does not depend on the scale of the posterior means, which normalisation in an encoder can set at will.
    """
    return int((kl_dim.double().mean(dim=0) > threshold).sum())


def variance_ratio_units(means: Tensor, variances: Tensor, threshold: float = 0.05) -> int:
    """Dimensions whose posterior means have more than ``threshold`` of the aggregate posterior's variance -> count.

    Var(μ_d) / (Var(μ_d) + E σ²_d) of posterior means and variances ``[N, D]``. The share is the same in all units of z.
    """
    between, within = means.double().var(dim=0), variances.double().mean(dim=0)
    return int((between > threshold * (between + within)).sum())


def collapse_curve(kl_dim: Tensor, epsilons: Tensor, delta: float = 0.01) -> Tensor:
    """Share of dimensions that are (ε, δ)-collapsed, P_x[KL_d < ε] ≥ 1 - δ (Lucas et al., 2019): ``[N, D]`` -> ``[E]``.

    KL to the prior in nats, of each example and dimension; the curve rises with ε from 0 to 1.
    """
    exceptions = int(delta * len(kl_dim) + 1e-9)  # examples that may be at ε or above
    critical = kl_dim.double().topk(exceptions + 1, dim=0).values[-1]
    return (critical < epsilons.to(critical).unsqueeze(1)).double().mean(dim=1)


class CoupledSamples(NamedTuple):
    """``[N, S, D]`` each: from the example's own posterior, from others' and from the prior."""

    own: Tensor
    other: Tensor
    prior: Tensor


class DistortionGaps(NamedTuple):
    """Nats per example ``[B]``, float64: how much worse x is reconstructed from z that is not its own."""

    shuffle: Tensor
    prior: Tensor


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """A permutation without fixed points, uniform among them: int64 ``[count]``."""
    if count < 2:
        raise ValueError("one example has no other")
    places = torch.arange(count, device=generator.device)
    while True:  # about e times
        order = torch.randperm(count, generator=generator, device=generator.device)
        if not (order == places).any():
            return order


def coupled_samples(
    posteriors: Sequence[Posterior], prior: Prior, samples: int, generator: torch.Generator
) -> CoupledSamples:
    """z for ``distortion_gaps`` of all examples in ``posteriors``; no example gets its own posterior as another's.

    Sample by sample the examples are paired anew. Gaussians and a standard normal prior are sampled from common noise:
    where the posterior is the prior the three are the same, and the gaps are 0 instead of noise around 0.
    """
    count = sum(len(q.mean) for q in posteriors)
    device = posteriors[0].mean.device
    partner = torch.stack([derangement(count, generator) for _ in range(samples)], dim=1).to(device)  # [N, S]
    gaussians = [q for q in posteriors if type(q) is Gaussian]
    if type(prior) is StandardNormal and len(gaussians) == len(posteriors):
        mean = torch.cat([q.mean for q in gaussians])
        scale = torch.cat([(0.5 * q.logvar).exp() for q in gaussians])
        noise = torch.randn(
            count, samples, prior.dim, generator=generator, device=generator.device, dtype=mean.dtype
        ).to(device)
        own = mean.unsqueeze(1) + scale.unsqueeze(1) * noise
        return CoupledSamples(own, mean[partner] + scale[partner] * noise, noise)
    own = torch.cat([q.rsample(samples, generator) for q in posteriors])
    other = own[partner, torch.arange(samples, device=device)]
    return CoupledSamples(own, other, prior.sample(count * samples, generator, device).view_as(own))


def distortion_gaps(model: VAE, x: Tensor, z: Tensor, z_other: Tensor, z_prior: Tensor, chunk: int) -> DistortionGaps:
    """How much -log p(x|z) rises when z comes from another example, and when it comes from the prior.

    x ``[B, …]``, each z ``[B, S, D]``, decoded at most ``chunk`` (example, sample) pairs at a time. Needs no density
    of q and knows no ceiling. 0 where the decoder ignores z; in expectation, the first also where q does not depend on
    x and the second where q is the prior. Under exact inference both are the symmetrised KL between p(x, z) and
    p(x) p(z), at least I(x; z). Negative where z does better without the encoder than with it.
    """
    own, other, prior = (_distortion(model, x, some, chunk) for some in (z, z_other, z_prior))
    return DistortionGaps(other - own, prior - own)


def _distortion(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """-log p(x|z), the mean of samples z ``[B, S, D]``: ``[B]``, float64."""
    parts = z.split(max(1, chunk // len(x)), dim=1)
    return -torch.cat([model.log_prob(x, some) for some in parts], dim=1).double().mean(dim=1)
