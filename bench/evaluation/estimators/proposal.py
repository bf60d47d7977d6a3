"""Gaussians refined per example, and a proposal for importance sampling made of them (Cremer et al., ICML 2018).

The proposal is constructed in the same way for every method, so its NLL compares decoders and not encoders. Where a
diagonal Gaussian is too far from the true posterior, one with a full covariance is added.

The model is in evaluation mode and gets no gradients. At most ``chunk`` (example, sample) pairs are decoded at a time,
but always all samples of one refinement step of one example. No number depends on ``chunk``, nor on the other examples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.chunking import chunked_log_prob
from bench.evaluation.estimators.full_gaussian import MAX_PAIRS_WITH_GRADIENT, FullGaussian, fit_full_gaussian
from bench.evaluation.estimators.likelihood import UNRELIABLE_K, pareto_k
from bench.models.distributions import Gaussian, Posterior
from bench.models.vae import VAE, second_order

NUM_SAMPLES = 64  # of q, where its scale or ELBO has no closed form
#: Initial scale of a proposal. From a narrow one the mean moves with little noise and the scale grows steadily; a scale
#: that is far too large decreases too slowly at any learning rate.
INITIAL_SCALE = 0.05
WIDENING = 1.5  # scale of the wide mixture component relative to the narrow one
MAX_VOLUME_GAP = 0.75  # nats of log volume that a diagonal Gaussian may lack
MAX_FULL_DIM = 64  # latent dimensions up to which a full covariance is fitted; its cost grows with them


class Mixture:
    """Equal mixture of Gaussians, each with ``WIDENING`` times its scale as a further component.

    The Gaussian of highest ELBO is narrower than a true posterior that is correlated or has heavier tails, which makes
    its weights uneven. The wide component makes them more even, and no weight of n components exceeds n times its value
    under any one alone.
    """

    def __init__(self, *gaussians: FullGaussian) -> None:
        self.components = [part for gaussian in gaussians for part in (gaussian, gaussian.widened(WIDENING))]

    def sample(self, samples: int, generators: list[torch.Generator]) -> Tensor:
        """Draw ``[B, S, D]``, alternating between the components."""
        z = noise(generators, samples, self.components[0].mean.to(self.components[0].dtype))
        for i, component in enumerate(self.components):
            z[:, i :: len(self.components)] = component.transform(z[:, i :: len(self.components)])
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        log_probs = torch.stack([component.log_prob(z) for component in self.components])
        return log_probs.logsumexp(0) - math.log(len(self.components))


class RefinedWeights(NamedTuple):
    """Importance weights of B examples under a proposal refined for each; nats, float64."""

    log_weights: Tensor  # [B, draws]
    elbo: Tensor  # [B], of the diagonal Gaussian
    full_covariance: Tensor  # [B], whether the proposal has a full covariance


@torch.no_grad()
def refined_log_weights(
    model: VAE,
    x: Tensor,
    q: Posterior,
    generator: torch.Generator,
    chunk: int,
    steps: int = 100,
    samples: int = 4,
    draws: int = 500,
) -> RefinedWeights:
    """Return importance weights of ``draws`` samples from the refined proposal of each example of x ``[B, …]``.

    Where their Pareto k̂ is above ``UNRELIABLE_K``, or a full covariance has a larger volume by ``MAX_VOLUME_GAP``, the
    true posterior is far from a diagonal Gaussian. Up to ``MAX_FULL_DIM`` dimensions the weights of these examples are
    then drawn again, from a mixture that includes a Gaussian with full covariance.

    The ``importance_weighted_nll`` is an upper bound of -log p(x) in expectation, almost independent of q.
    ``effective_sample_size`` and ``pareto_k`` show where the refinement failed.
    """
    diagonal = refined_gaussian(model, x, q, generator, chunk, steps, samples)
    generators = streams(generator, len(x))

    def draw(rows: Tensor, *gaussians: FullGaussian) -> tuple[Tensor, Tensor]:
        """Return log weights under the mixture of ``gaussians``, and under the first of them alone."""
        proposal = Mixture(*gaussians)
        z = proposal.sample(draws, [generators[row] for row in rows.tolist()])  # (B, S, D)
        log_joint = joint_log_prob(model, x[rows], z, chunk)
        return log_joint - proposal.log_prob(z), log_joint - gaussians[0].log_prob(z)

    plain = FullGaussian.diagonal(diagonal)
    log_weights, log_ratio = draw(torch.arange(len(x)), plain)
    elbo = log_ratio[:, ::2].mean(1)  # even samples are from the diagonal Gaussian itself
    full = pareto_k(log_weights) > UNRELIABLE_K
    if diagonal.mean.shape[1] > MAX_FULL_DIM:
        full[:] = False
    else:  # k̂ has noise, the volume has none
        step = fit_full_gaussian(model, x, plain, chunk, iterations=1)
        full |= step.log_volume() - plain.log_volume() > MAX_VOLUME_GAP
    if len(rows := full.nonzero().squeeze(1)):
        log_weights[rows], _ = draw(rows, plain[rows], fit_full_gaussian(model, x[rows], plain[rows], chunk))
    return RefinedWeights(log_weights, elbo, full)


def refined_gaussian(
    model: VAE, x: Tensor, q: Posterior, generator: torch.Generator, chunk: int, steps: int = 100, samples: int = 4
) -> Gaussian:
    """Fit the diagonal Gaussian of highest ELBO to each example of x ``[B, …]``.

    It starts from q's mean and ``INITIAL_SCALE``, or q's scale where that is narrower and has the higher ELBO: nothing
    else of q is used. ``samples`` per step are antithetic pairs, which leave no noise in the mean's gradient if the
    true posterior is Gaussian, correlated or not.
    """
    noises = _antithetic_noise(generator, steps, samples, q.mean)
    mean, default = q.mean.detach(), torch.full_like(q.mean, 2 * math.log(INITIAL_SCALE))
    start = Gaussian(mean, default)
    narrow = Gaussian(mean, torch.minimum(default, _log_variance(q, generator)))
    if (narrow.logvar < default).any():
        gain = _sampled_elbo(model, x, narrow, noises[0], chunk) - _sampled_elbo(model, x, start, noises[0], chunk)
        start = Gaussian(mean, torch.where((gain > 0).unsqueeze(1), narrow.logvar, default))
    return _refine(model, x, start, noises, chunk, lr=0.3, power=2, unit=(0.5 * (start.logvar - default)).exp())


def refined(
    model: VAE,
    x: Tensor,
    q: Posterior,
    generator: torch.Generator,
    chunk: int,
    steps: int = 100,
    samples: int = 4,
    lr: float = 0.1,
) -> Gaussian:
    """Return the diagonal Gaussian of each example after ``steps`` of Adam on its ELBO, from q's mean and scale.

    All examples share the noise of the ``samples`` per step, antithetic pairs. The learning rate decays linearly to 0,
    and the result is the average over the second half of the steps. With the mean of a Gaussian posterior as the start
    it stays there; the mean of another one is found up to noise of about a tenth of its scale.
    """
    start = Gaussian(q.mean.detach(), _log_variance(q, generator))
    noises = _antithetic_noise(generator, steps, samples, q.mean)
    return _refine(model, x, start, noises, chunk, lr, power=1, average=0.5)


def _log_variance(q: Posterior, generator: torch.Generator) -> Tensor:
    """Return the log-variance of q ``[B, D]``, from samples if it is not Gaussian."""
    logvar = q.logvar if isinstance(q, Gaussian) else q.rsample(NUM_SAMPLES, generator).var(dim=1).log()
    return logvar.detach()


def _sampled_elbo(model: VAE, x: Tensor, q: Gaussian, noise: Tensor, chunk: int) -> Tensor:
    """Return the ELBO ``[N]`` from noise ``[S, D]`` that all examples share."""
    z = q.mean.unsqueeze(1) + (0.5 * q.logvar).exp().unsqueeze(1) * noise
    return (joint_log_prob(model, x, z, chunk) - q.log_prob(z)).mean(1)


def _refine(
    model: VAE,
    x: Tensor,
    start: Gaussian,
    noises: Tensor,
    chunk: int,
    lr: float,
    power: float,
    unit: Tensor | None = None,
    average: float = 0.0,
) -> Gaussian:
    """Maximise the ELBO of each example from ``start`` with noise ``[K, S, D]``, batch by batch."""
    unit = torch.ones_like(start.mean) if unit is None else unit
    examples = max(1, min(chunk, MAX_PAIRS_WITH_GRADIENT) // noises.shape[1])
    batches = zip(*(rows.split(examples) for rows in (x, start.mean, start.logvar, unit)), strict=True)
    ends = [_ascend(model, *batch, noises, lr, power, average) for batch in batches]
    return Gaussian(*torch.cat(ends, dim=1))


@torch.enable_grad()
def _ascend(
    model: VAE,
    x: Tensor,
    mean: Tensor,
    logvar: Tensor,
    unit: Tensor,
    noises: Tensor,
    lr: float,
    power: float,
    average: float,
) -> Tensor:
    """Return mean and log-variance ``[2, N, D]`` after one ELBO step for each entry of ``noises`` ``[K, S, D]``.

    Path gradient, whose noise vanishes if the true posterior is in the family (Roeder et al., 2017). The learning rate
    decays polynomially with the given power; a step of the mean is in units of ``unit`` ``[N, D]``. The result is the
    mean over the last ``average`` of the steps; with 0, the last one.
    """
    start, scale = torch.stack([mean, logvar]), torch.stack([unit, torch.ones_like(unit)])
    change = torch.zeros_like(start).requires_grad_()
    optimiser = torch.optim.Adam([change], lr, betas=(0.8, 0.9))  # short memory, because there are few steps
    decay = torch.optim.lr_scheduler.PolynomialLR(optimiser, len(noises), power)
    averaged = max(1, round(average * len(noises)))
    total = torch.zeros_like(start)
    for i, epsilon in enumerate(noises):
        mean, logvar = state = start + scale * change
        z = mean.unsqueeze(1) + (0.5 * logvar).exp().unsqueeze(1) * epsilon  # (N, S, D)
        log_q = Gaussian(*state.detach()).log_prob(z)
        with second_order(model):  # gradients in evaluation mode
            loss = (log_q - model.log_prob(x, z) - model.prior.log_prob(z)).sum() / len(epsilon)
            (change.grad,) = torch.autograd.grad(loss, [change])
        optimiser.step()
        decay.step()
        if i >= len(noises) - averaged:
            total += change.detach()
    return start + scale * total / averaged


def joint_log_prob(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """Return log p(x, z) of x ``[N, …]`` at z ``[N, S, D]``: ``[N, S]``, float64 after the decoder."""
    return chunked_log_prob(model, x, z, chunk).double() + model.prior.log_prob(z).double()


def _antithetic_noise(generator: torch.Generator, steps: int, samples: int, like: Tensor) -> Tensor:
    """Draw standard normal noise in pairs of opposite sign, ``[steps, samples, D]``, that all examples share."""
    shape = steps, (samples + 1) // 2, like.shape[1]
    half = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
    return torch.cat([half, -half], dim=1)


def streams(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """Return one generator per example, each independent of how many examples follow it."""
    seeds = [torch.randint(2**62, (), generator=generator, device=generator.device) for _ in range(count)]
    return [torch.Generator(generator.device).manual_seed(int(seed)) for seed in seeds]


def noise(generators: list[torch.Generator], samples: int, like: Tensor) -> Tensor:
    """Draw standard normal noise ``[B, samples, D]`` with one generator per example; D, type and device as ``like``."""
    shape = samples, like.shape[-1]
    return torch.stack([torch.randn(shape, generator=g, device=like.device, dtype=like.dtype) for g in generators])
