"""Gaussians refined for each example; of them a proposal for importance sampling that is made in the same way for every
method, so that the NLL compares decoders and not encoders (Cremer et al., ICML 2018).

The model is in evaluation mode and gets no gradients; at most ``chunk`` (example, sample) pairs are decoded at a time,
though all samples of one step of one example. No number depends on ``chunk``, nor one example's on the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.models.distributions import Gaussian, Posterior
from bench.models.vae import VAE, second_order

SAMPLES = 64  # of q, for what it does not tell otherwise
WITH_GRADIENT = 32  # (example, sample) pairs decoded at a time where a gradient is wanted: a training batch
#: The scale that a common proposal is refined from. From a narrow one the mean moves with little noise and the scale
#: rises steadily; from one that is far too wide it falls too slowly, whatever the learning rate.
NARROW = 0.05
WIDER = 1.5  # the scale of a proposal's second half, over that of the first


class Mixture:
    """Half a Gaussian, half the same one ``WIDER``: a proposal for importance sampling.

    The Gaussian of highest ELBO is narrower than a true posterior that is correlated or has heavier tails, and its
    weights are then uneven. With a wider half they are less so, and never more than twice what either alone would give.
    """

    def __init__(self, narrow: Gaussian):
        self.narrow, self.wide = narrow, Gaussian(narrow.mean, narrow.logvar + 2 * math.log(WIDER))

    def sample(self, samples: int, some: list[torch.Generator]) -> Tensor:
        """``[B, S, D]`` from the halves by turns, so that any stretch of samples has its share of both."""
        deviation = (0.5 * self.narrow.logvar).exp().unsqueeze(1) * noise(some, samples, self.narrow.mean)
        deviation[:, 1::2] *= WIDER
        return self.narrow.mean.unsqueeze(1) + deviation

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logaddexp(self.narrow.log_prob(z), self.wide.log_prob(z)) - math.log(2)


class RefinedWeights(NamedTuple):
    """Of the common proposal: log weights ``[B, draws]``, for the estimators of the likelihood, and the ELBO of its
    Gaussian ``[B]``, both in nats and float64."""

    log_weights: Tensor
    elbo: Tensor
    proposal: Mixture


def refined_proposal(
    model: VAE,
    x: Tensor,
    q: Posterior,
    generator: torch.Generator,
    chunk: int,
    steps: int = 100,
    samples: int = 4,
) -> Mixture:
    """The diagonal Gaussian of highest ELBO for each example of x ``[B, …]``, widened for importance sampling.

    Of q it takes the mean, as a place to start from, and nothing else. ``samples`` per step are pairs mirrored at the
    mean, which leaves no noise in the mean's gradient where the true posterior is Gaussian, however correlated.
    """
    start = torch.stack([q.mean.detach(), torch.full_like(q.mean, 2 * math.log(NARROW))])
    half = _shared_noise(generator, steps, (samples + 1) // 2, q.mean)
    return Mixture(_refine(model, x, start, torch.cat([half, -half], dim=1), chunk, lr=0.3, power=2))


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
    """Importance weights of ``draws`` samples of its common proposal for each example of x ``[B, …]``.

    ``importance_weighted_nll`` makes of them an upper bound of -log p(x) in expectation, which hardly depends on q;
    ``effective_sample_size`` and ``pareto_k`` say where the refinement did not get there.
    """
    proposal = refined_proposal(model, x, q, generator, chunk, steps, samples)
    z = proposal.sample(draws, streams(generator, len(x)))
    log_joint = joint_log_prob(model, x, z, chunk)
    of_narrow = log_joint - proposal.narrow.log_prob(z).double()
    return RefinedWeights(log_joint - proposal.log_prob(z).double(), of_narrow[:, ::2].mean(1), proposal)


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
    """The diagonal Gaussian of each example after ``steps`` of Adam on its ELBO, from q's mean and scale.

    ``samples`` per step, their noise common to all examples; the learning rate falls linearly to 0.
    """
    mean = q.mean.detach()
    logvar = q.logvar if isinstance(q, Gaussian) else q.rsample(SAMPLES, generator).var(dim=1).log()
    noises = _shared_noise(generator, steps, samples, mean)
    return _refine(model, x, torch.stack([mean, logvar.detach()]), noises, chunk, lr, power=1)


def _refine(model: VAE, x: Tensor, start: Tensor, noises: Tensor, chunk: int, lr: float, power: float) -> Gaussian:
    """From mean and log-variance ``start`` ``[2, N, D]``, with noise ``[K, S, D]``; a few examples at a time."""
    examples = max(1, min(chunk, WITH_GRADIENT) // noises.shape[1])
    parts = zip(x.split(examples), start.split(examples, dim=1), strict=True)
    return Gaussian(*torch.cat([_ascend(model, some, state, noises, lr, power) for some, state in parts], dim=1))


@torch.enable_grad()
def _ascend(model: VAE, x: Tensor, start: Tensor, noises: Tensor, lr: float, power: float) -> Tensor:
    """Mean and log-variance ``[2, N, D]`` after one step on the ELBO for each entry of ``noises`` ``[K, S, D]``.

    The gradient is that of the path alone, whose noise vanishes where the true posterior is such a Gaussian
    (Roeder et al., 2017). The learning rate falls as the given power of what is left.
    """
    state = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([state], lr, betas=(0.8, 0.9))  # a short memory, for few steps
    decay = torch.optim.lr_scheduler.PolynomialLR(optimiser, len(noises), power)
    for some in noises:
        mean, logvar = state
        z = mean.unsqueeze(1) + (0.5 * logvar).exp().unsqueeze(1) * some
        log_q = Gaussian(*state.detach()).log_prob(z)
        with second_order(model):  # gradients in evaluation mode
            loss = (log_q - model.log_prob(x, z) - model.prior.log_prob(z)).sum() / len(some)
            (state.grad,) = torch.autograd.grad(loss, [state])
        optimiser.step()
        decay.step()
    return state.detach()


def joint_log_prob(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """log p(x, z) of x ``[N, …]`` at z ``[N, S, D]`` -> ``[N, S]``, in float64 after the decoder."""
    examples = max(1, chunk // z.shape[1])
    log_px = [
        torch.cat([model.log_prob(some, points) for points in group.split(chunk, dim=1)], dim=1)
        for some, group in zip(x.split(examples), z.split(examples), strict=True)
    ]
    return torch.cat(log_px).double() + model.prior.log_prob(z).double()


def _shared_noise(generator: torch.Generator, steps: int, samples: int, like: Tensor) -> Tensor:
    """Standard normal ``[steps, samples, D]``, for all examples alike."""
    return torch.randn(steps, samples, like.shape[1], generator=generator, device=like.device, dtype=like.dtype)


def streams(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """A stream of noise for each of ``count`` examples, which does not depend on how many follow it."""
    seeds = [torch.randint(2**62, (), generator=generator, device=generator.device) for _ in range(count)]
    return [torch.Generator(generator.device).manual_seed(int(seed)) for seed in seeds]


def noise(some: list[torch.Generator], samples: int, like: Tensor) -> Tensor:
    """Standard normal ``[B, samples, D]``, one stream for each example; device, type and D as those of ``like``."""
    draw = (torch.randn(samples, like.shape[-1], generator=s, device=like.device, dtype=like.dtype) for s in some)
    return torch.stack(list(draw))
