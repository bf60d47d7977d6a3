"""Use of the latent: by the encoder (counts of dimensions), and by the decoder (distortion gaps)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.chunking import chunked_log_prob
from bench.models.distributions import Gaussian, Posterior, Prior, StandardNormal
from bench.models.vae import VAE


def active_units(means: Tensor, threshold: float = 0.01) -> float:
    """Count the dimensions whose posterior mean has a variance over the data above ``threshold``: means ``[N, D]``.

    Unbiased variance of posterior means, not of samples (Burda et al., ICLR 2016). NaN for one example.
    """
    return _count_above(_variance(means), threshold)


def _variance(means: Tensor) -> Tensor:
    """Return the unbiased variance over the examples: ``[N, D]`` -> ``[D]``, float64; NaN for one example."""
    return means.double().var(dim=0) if len(means) > 1 else torch.full_like(means[0], math.nan, dtype=torch.float64)


def _count_above(values: Tensor, threshold: Tensor | float) -> float:
    """Count the values ``[D]`` above ``threshold``; NaN if a value is NaN."""
    return math.nan if values.isnan().any() else int((values > threshold).sum())


def informative_units(kl_dim: Tensor, threshold: float = 0.01) -> float:
    """Count the dimensions whose mean KL to the prior is above ``threshold`` nats: KL ``[N, D]``.

    Does not depend on the scale of the posterior means, which a normalisation layer in the encoder can set.
    """
    return _count_above(kl_dim.double().mean(dim=0), threshold)


def variance_ratio_units(means: Tensor, variances: Tensor, threshold: float = 0.05) -> float:
    """Count the dimensions whose means contribute more than ``threshold`` of the aggregate posterior's variance.

    The ratio Var(μ_d) / (Var(μ_d) + E σ²_d) of posterior means and variances ``[N, D]`` is invariant to the scale of z.
    NaN for one example.
    """
    between, within = _variance(means), variances.double().mean(dim=0)
    return _count_above(between, threshold * (between + within))


def collapse_curve(kl_dim: Tensor, epsilons: Tensor, delta: float = 0.01) -> Tensor:
    """Return the share of (ε, δ)-collapsed dimensions, P_x[KL_d < ε] ≥ 1 - δ (Lucas et al., 2019), for each ε ``[E]``.

    ``kl_dim`` ``[N, D]``: KL to the prior in nats. The curve increases with ε from 0 to 1; NaN if a KL is.
    """
    if kl_dim.isnan().any():
        return torch.full_like(epsilons, math.nan, dtype=torch.float64)
    exceptions = int(delta * len(kl_dim) + 1e-9)  # examples that may have a KL of ε or more
    critical = kl_dim.double().topk(exceptions + 1, dim=0).values[-1]
    return (critical < epsilons.to(critical).unsqueeze(1)).double().mean(dim=1)


class CoupledSamples(NamedTuple):
    """z ``[N, S, D]`` from the example's own posterior, from that of another example, and from the prior."""

    own: Tensor
    other: Tensor
    prior: Tensor


class DistortionGaps(NamedTuple):
    """Increase of -log p(x|z) with z of another example, and with z of the prior: nats ``[B]``, float64."""

    shuffle: Tensor
    prior: Tensor


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """Draw a permutation without fixed points, uniformly: int64 ``[count]``. ``ValueError`` for a single example."""
    if count < 2:
        raise ValueError("a derangement needs at least two examples")
    identity = torch.arange(count, device=generator.device)
    while True:  # e attempts on average
        order = torch.randperm(count, generator=generator, device=generator.device)
        if not (order == identity).any():
            return order


def coupled_samples(
    posteriors: Sequence[Posterior], prior: Prior, samples: int, generator: torch.Generator
) -> CoupledSamples:
    """Draw z for ``distortion_gaps`` of the N examples in ``posteriors``.

    Each sample pairs every example with another one, by a new derangement. Gaussian posteriors and a standard normal
    prior share the noise, so that the gaps are exactly 0 if the posterior equals the prior, not noise around 0.
    """
    count = sum(len(q.mean) for q in posteriors)
    device = posteriors[0].mean.device
    partner = torch.stack([derangement(count, generator) for _ in range(samples)], dim=1).to(device)  # (N, S)
    gaussians = [q for q in posteriors if isinstance(q, Gaussian)]
    if type(prior) is StandardNormal and len(gaussians) == len(posteriors):
        mean = torch.cat([q.mean for q in gaussians])
        scale = torch.cat([(0.5 * q.logvar).exp() for q in gaussians])
        shape = count, samples, prior.dim
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=mean.dtype).to(device)
        own = mean.unsqueeze(1) + scale.unsqueeze(1) * noise
        return CoupledSamples(own, mean[partner] + scale[partner] * noise, noise)
    own = torch.cat([q.rsample(samples, generator) for q in posteriors])
    other = own[partner, torch.arange(samples, device=device)]
    return CoupledSamples(own, other, prior.sample(count * samples, generator, device).view_as(own))


def distortion_gaps(model: VAE, x: Tensor, z: Tensor, z_other: Tensor, z_prior: Tensor, chunk: int) -> DistortionGaps:
    """Return the increase of -log p(x|z) with z of another example, and with z of the prior.

    x ``[B, …]``, each z ``[B, S, D]``, decoded at most ``chunk`` (example, sample) pairs at a time. Needs no density of
    q and has no ceiling. 0 if the decoder ignores z; in expectation, the first is also 0 if q does not depend on x, the
    second if q is the prior. Under exact inference both are the symmetrised KL between p(x, z) and p(x) p(z), at least
    I(x; z). Negative if z from the encoder is worse than z from elsewhere.
    """
    own, other, prior = (
        -chunked_log_prob(model, x, samples, chunk).double().mean(dim=1) for samples in (z, z_other, z_prior)
    )  # (B,) each
    return DistortionGaps(other - own, prior - own)
