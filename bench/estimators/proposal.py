"""A proposal refined for each example in the same way for every method, so that the NLL compares decoders and not
encoders (Cremer et al., ICML 2018).

The model is in evaluation mode and gets no gradients; at most ``chunk`` (example, sample) pairs are decoded at a time.
No number depends on ``chunk``, nor one example's on the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.models.distributions import Gaussian, Posterior
from bench.models.text import second_order
from bench.models.vae import VAE

SAMPLES = 64  # of q, for what it does not tell otherwise
WITH_GRADIENT = 32  # (example, sample) pairs decoded at a time where a gradient is wanted: a training batch
WIDER = 1.3  # the scale of the proposal's second half, over that of the first


class Mixture:
    """Half a Gaussian and half the same one ``WIDER``, for importance sampling.

    The Gaussian of highest ELBO is too narrow where the true posterior is correlated or has heavier tails, and its
    weights too uneven. With the wider half none is more than twice what it would be under either alone.
    """

    has_density, has_pairwise = True, False

    def __init__(self, narrow: Gaussian):
        self.narrow, self.mean = narrow, narrow.mean
        self.wide = Gaussian(narrow.mean, narrow.logvar + 2 * math.log(WIDER))

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """``[B, S, D]``, from either half by turns: so their shares are the same in every stretch of samples."""
        z = self.narrow.rsample(samples, generator)
        mean = self.mean.unsqueeze(1)
        z[:, 1::2] = mean + WIDER * (z[:, 1::2] - mean)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logaddexp(self.narrow.log_prob(z), self.wide.log_prob(z)) - math.log(2)


class CommonWeights(NamedTuple):
    """``log_weights`` ``[B, draws]`` of samples of the common proposal, for the estimators of the likelihood, and the
    ELBO of its refined Gaussian ``[B]``, in nats, float64."""

    log_weights: Tensor
    elbo: Tensor
    proposal: Mixture


def common_proposal(
    model: VAE,
    x: Tensor,
    q: Posterior,
    generator: torch.Generator,
    chunk: int,
    steps: int = 100,
    samples: int = 4,
) -> Mixture:
    return Mixture(refined(model, x, q, generator, chunk, steps, samples))


@torch.no_grad()
def common_log_weights(
    model: VAE,
    x: Tensor,
    q: Posterior,
    generator: torch.Generator,
    chunk: int,
    steps: int = 100,
    samples: int = 4,
    draws: int = 500,
) -> CommonWeights:
    """Log weights of ``draws`` samples for each example of x ``[B, …]`` under its common proposal."""
    proposal = common_proposal(model, x, q, generator, chunk, steps, samples)
    z = proposal.rsample(draws, generator)
    log_joint = joint_log_prob(model, x, z, chunk)
    log_weights = log_joint - proposal.log_prob(z).double()
    elbo = (log_joint - proposal.narrow.log_prob(z).double())[:, ::2].mean(1)
    return CommonWeights(log_weights, elbo, proposal)


def streams(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """A stream of noise for each of ``count`` examples, so that none depends on how many follow it."""
    seeds = [torch.randint(2**62, (), generator=generator, device=generator.device) for _ in range(count)]
    return [torch.Generator(generator.device).manual_seed(int(seed)) for seed in seeds]


def noise(some: list[torch.Generator], samples: int, like: Tensor) -> Tensor:
    """Standard normal ``[B, samples, D]``, one stream for each example; device, type and D as those of ``like``."""
    shape, about = (samples, like.shape[-1]), {"device": like.device, "dtype": like.dtype}
    return torch.stack([torch.randn(shape, generator=stream, **about) for stream in some])


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

    ``samples`` per step, their noise common to all examples; the learning rate falls linearly to 0. The gradient is
    that of the path alone, whose noise vanishes where the true posterior is such a Gaussian (Roeder et al., 2017).
    """
    mean = q.mean.detach()
    logvar = q.logvar if isinstance(q, Gaussian) else q.rsample(SAMPLES, generator).var(dim=1).log()
    start = torch.stack([mean, logvar.detach()])  # [2, N, D]: optimised together
    noise = torch.randn(steps, samples, mean.shape[1], generator=generator, device=mean.device, dtype=mean.dtype)
    examples = max(1, min(chunk, WITH_GRADIENT) // samples)
    parts = zip(x.split(examples), start.split(examples, dim=1), strict=True)
    return Gaussian(*torch.cat([_ascend(model, some, state, noise, lr) for some, state in parts], dim=1))


@torch.enable_grad()
def _ascend(model: VAE, x: Tensor, start: Tensor, noise: Tensor, lr: float) -> Tensor:
    """Mean and log-variance ``[2, N, D]`` after one step on the ELBO for each entry of ``noise`` ``[K, S, D]``."""
    state = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([state], lr, betas=(0.8, 0.9))  # a short memory, for few steps
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=len(noise))
    for some in noise:
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
