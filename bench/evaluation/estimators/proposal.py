"""Gaussians refined per example, and a proposal for importance sampling made of them (Cremer et al., ICML 2018).

The proposal is constructed in the same way for every method, so its NLL compares decoders and not encoders.

The model is in evaluation mode and gets no gradients. At most ``chunk`` (example, sample) pairs are decoded at a time,
but always all samples of one refinement step of one example. No number depends on ``chunk``, nor on the other examples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.chunking import chunked_log_prob
from bench.models.distributions import Gaussian, Posterior
from bench.models.vae import VAE, second_order

NUM_SAMPLES = 64  # of q, where its scale or ELBO has no closed form
MAX_PAIRS_WITH_GRADIENT = 32  # (example, sample) pairs decoded at a time with gradients: a training batch
#: Initial scale of a proposal. From a narrow one the mean moves with little noise and the scale grows steadily; a scale
#: that is far too large decreases too slowly at any learning rate.
INITIAL_SCALE = 0.05
WIDENING = 1.5  # scale of the second mixture component relative to the first


class Mixture:
    """Equal mixture of a Gaussian and the same Gaussian with ``WIDENING`` times its scale.

    The Gaussian of highest ELBO is narrower than a true posterior that is correlated or has heavier tails, which makes
    its weights uneven. The wide component makes them more even, and no weight exceeds twice its value under either
    component alone.
    """

    def __init__(self, narrow: Gaussian):
        self.narrow, self.wide = narrow, Gaussian(narrow.mean, narrow.logvar + 2 * math.log(WIDENING))

    def sample(self, samples: int, generators: list[torch.Generator]) -> Tensor:
        """Draw ``[B, S, D]``, alternating between the components."""
        deviation = (0.5 * self.narrow.logvar).exp().unsqueeze(1) * noise(generators, samples, self.narrow.mean)
        deviation[:, 1::2] *= WIDENING
        return self.narrow.mean.unsqueeze(1) + deviation

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logaddexp(self.narrow.log_prob(z), self.wide.log_prob(z)) - math.log(2)


class RefinedWeights(NamedTuple):
    """Log weights ``[B, draws]`` under a refined proposal, and the ELBO ``[B]`` of its Gaussian; nats, float64."""

    log_weights: Tensor
    elbo: Tensor


def refined_proposal(
    model: VAE, x: Tensor, q: Posterior, generator: torch.Generator, chunk: int, steps: int = 100, samples: int = 4
) -> Mixture:
    """Fit the diagonal Gaussian of highest ELBO to each example of x ``[B, …]``, and widen it for importance sampling.

    Only the mean of q is used, as the starting point. ``samples`` per step are antithetic pairs, which leave no noise
    in the mean's gradient if the true posterior is Gaussian, correlated or not.
    """
    start = torch.stack([q.mean.detach(), torch.full_like(q.mean, 2 * math.log(INITIAL_SCALE))])
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
    """Return importance weights of ``draws`` samples from the refined proposal of each example of x ``[B, …]``.

    Their ``importance_weighted_nll`` is an upper bound of -log p(x) in expectation, almost independent of q.
    ``effective_sample_size`` and ``pareto_k`` show where the refinement did not converge.
    """
    proposal = refined_proposal(model, x, q, generator, chunk, steps, samples)
    z = proposal.sample(draws, streams(generator, len(x)))  # (B, S, D)
    log_joint = joint_log_prob(model, x, z, chunk)
    narrow_weights = log_joint - proposal.narrow.log_prob(z).double()
    elbo = narrow_weights[:, ::2].mean(1)  # even samples are from the narrow component
    return RefinedWeights(log_joint - proposal.log_prob(z).double(), elbo)


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

    All examples share the noise of the ``samples`` per step. The learning rate decays linearly to 0.
    """
    mean = q.mean.detach()
    logvar = q.logvar if isinstance(q, Gaussian) else q.rsample(NUM_SAMPLES, generator).var(dim=1).log()
    noises = _shared_noise(generator, steps, samples, mean)
    return _refine(model, x, torch.stack([mean, logvar.detach()]), noises, chunk, lr, power=1)


def _refine(model: VAE, x: Tensor, start: Tensor, noises: Tensor, chunk: int, lr: float, power: float) -> Gaussian:
    """Maximise the ELBO from mean and log-variance ``start`` ``[2, N, D]`` with noise ``[K, S, D]``, batch by batch."""
    examples = max(1, min(chunk, MAX_PAIRS_WITH_GRADIENT) // noises.shape[1])
    batches = zip(x.split(examples), start.split(examples, dim=1), strict=True)
    return Gaussian(*torch.cat([_ascend(model, batch, state, noises, lr, power) for batch, state in batches], dim=1))


@torch.enable_grad()
def _ascend(model: VAE, x: Tensor, start: Tensor, noises: Tensor, lr: float, power: float) -> Tensor:
    """Return mean and log-variance ``[2, N, D]`` after one ELBO step for each entry of ``noises`` ``[K, S, D]``.

    Path gradient, whose noise vanishes if the true posterior is in the family (Roeder et al., 2017). The learning rate
    decays polynomially with the given power.
    """
    state = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([state], lr, betas=(0.8, 0.9))  # short memory, because there are few steps
    decay = torch.optim.lr_scheduler.PolynomialLR(optimiser, len(noises), power)
    for epsilon in noises:
        mean, logvar = state
        z = mean.unsqueeze(1) + (0.5 * logvar).exp().unsqueeze(1) * epsilon  # (N, S, D)
        log_q = Gaussian(*state.detach()).log_prob(z)
        with second_order(model):  # gradients in evaluation mode
            loss = (log_q - model.log_prob(x, z) - model.prior.log_prob(z)).sum() / len(epsilon)
            (state.grad,) = torch.autograd.grad(loss, [state])
        optimiser.step()
        decay.step()
    return state.detach()


def joint_log_prob(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """Return log p(x, z) of x ``[N, …]`` at z ``[N, S, D]``: ``[N, S]``, float64 after the decoder."""
    return chunked_log_prob(model, x, z, chunk).double() + model.prior.log_prob(z).double()


def _shared_noise(generator: torch.Generator, steps: int, samples: int, like: Tensor) -> Tensor:
    """Draw standard normal noise ``[steps, samples, D]`` that all examples share."""
    return torch.randn(steps, samples, like.shape[1], generator=generator, device=like.device, dtype=like.dtype)


def streams(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """Return one generator per example, each independent of how many examples follow it."""
    seeds = [torch.randint(2**62, (), generator=generator, device=generator.device) for _ in range(count)]
    return [torch.Generator(generator.device).manual_seed(int(seed)) for seed in seeds]


def noise(generators: list[torch.Generator], samples: int, like: Tensor) -> Tensor:
    """Draw standard normal noise ``[B, samples, D]`` with one generator per example; D, type and device as ``like``."""
    shape = samples, like.shape[-1]
    return torch.stack([torch.randn(shape, generator=g, device=like.device, dtype=like.dtype) for g in generators])
