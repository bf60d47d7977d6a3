"""Annealed importance sampling (Neal, 2001) with Hamiltonian moves, for decoders (Wu et al., ICLR 2017).

The way leads from a Gaussian q, N(0, I) unless another is given, to the joint density p(x, z), through densities
q(z) (p(x, z) / q(z))^b with b from 0 to 1: where q is the prior, p(z) p(x|z)^b. Moves are in the coordinates u in which
q is standard normal.

The mean of the forward weights is unbiased for p(x), so the log of that mean is a lower bound of log p(x) in
expectation. Reverse weights begin with a z drawn from p(z|x), as is known of simulated x alone; the mean of their
inverses is unbiased for 1 / p(x), so minus its log is an upper bound in expectation (Grosse et al., 2015). Both need
moves that do not depend on the past of the chain they move. So step sizes are found beforehand, one for each example
and density, by pilot chains of which nothing else is used.

The model is in evaluation mode and gets no gradients; at most ``chunk`` (example, chain) pairs are decoded at a time.
No number depends on ``chunk``, nor one example's on the others. Weights are summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.estimators.proposal import WITH_GRADIENT, noise, streams
from bench.models.distributions import Gaussian
from bench.models.vae import VAE, second_order

LEAPFROGS = 10
PILOTS = 4  # chains
ACCEPTED = 0.65  # share of moves that step sizes aim at
STEP_SIZES = (1e-4, 0.5)
FIRST_SIZE = 0.1
JITTER = 0.2  # by which each move's step size varies: moves that fit a density's period would come back again and again
GAIN = 0.02  # by which the log of a step size changes with each move of the pilots
RANGE = 4.0  # by which it can change over all of them: where these are few, the gain is more
STEEPNESS = 4.0  # of the sigmoidal schedule


class Point(NamedTuple):
    """Where the chains are: u ``[B, C, D]``, log p(x, z) - log q(z) there ``[B, C]``, and its gradient by u."""

    u: Tensor
    log_ratio: Tensor
    gradient: Tensor


At = Callable[[Tensor], Point]


def ais_log_weights(
    model: VAE,
    x: Tensor,
    generator: torch.Generator,
    chunk: int,
    chains: int = 10,
    steps: int = 500,
    start: Gaussian | None = None,
) -> Tensor:
    """Log weights ``[B, chains]`` of x ``[B, …]`` in nats, float64, over ``steps`` densities after the start.

    Their ``importance_weighted_nll`` is an upper bound of -log p(x) in expectation, which falls as ``steps`` grow.
    """
    return _anneal(model, x, None, generator, chunk, chains, steps, start)


def reverse_log_weights(
    model: VAE,
    x: Tensor,
    z: Tensor,
    generator: torch.Generator,
    chunk: int,
    chains: int = 10,
    steps: int = 500,
    start: Gaussian | None = None,
) -> Tensor:
    """Log weights ``[B, chains]`` of the way back from z ``[B, D]`` ~ p(z|x), one exact sample for each example.

    The ``importance_weighted_nll`` of minus these weights is an upper bound of log p(x) in expectation, over z too:
    all chains of an example share it, and more of them do not average it away.
    """
    return _anneal(model, x, z, generator, chunk, chains, steps, start)


@torch.no_grad()
def _anneal(
    model: VAE,
    x: Tensor,
    z: Tensor | None,
    generator: torch.Generator,
    chunk: int,
    chains: int,
    steps: int,
    start: Gaussian | None,
) -> Tensor:
    """Forward without a z, else reverse from it; as many examples at a time as the chunk allows."""
    if start is None:
        origin = next(model.parameters()).new_zeros(len(x), model.latent_dim)
        start = Gaussian(origin, origin)
    budget = min(chunk, WITH_GRADIENT)
    examples = max(1, budget // chains)
    every_stream, weights = streams(generator, len(x)), []
    for first in range(0, len(x), examples):
        rows, some = slice(first, first + examples), every_stream[first : first + examples]
        mean, scale = start.mean[rows].unsqueeze(1), (0.5 * start.logvar[rows]).exp().unsqueeze(1)
        at = _points(model, x[rows], mean, scale, budget)
        sizes = _step_sizes(at, some, mean, steps)
        if z is None:
            weights.append(_forward(at, at(noise(some, chains, mean)), sizes, some))
        else:
            u = (z[rows].unsqueeze(1) - mean) / scale
            weights.append(_reverse(at, at(u.expand(-1, chains, -1)), sizes, some))
    return torch.cat(weights)


def _forward(at: At, point: Point, sizes: Tensor, some: list[torch.Generator]) -> Tensor:
    """Log weights ``[B, C]`` of chains that start from q; ``sizes`` ``[T, B]``, one for each density after q."""
    schedule = _schedule(len(sizes))
    log_weights = torch.zeros_like(point.log_ratio, dtype=torch.float64)
    for before, beta, size in zip(schedule[:-1], schedule[1:], sizes, strict=True):
        log_weights += (beta - before) * point.log_ratio.double()
        if beta < 1:  # the last density is the target: a move there changes no weight
            point, _ = _move(at, point, beta, size, some)
    return log_weights


def _reverse(at: At, point: Point, sizes: Tensor, some: list[torch.Generator]) -> Tensor:
    """Log weights ``[B, C]`` of the same way taken backwards, by chains that start from the target."""
    schedule = _schedule(len(sizes))
    log_weights = torch.zeros_like(point.log_ratio, dtype=torch.float64)
    for step in reversed(range(len(sizes))):
        log_weights += (schedule[step + 1] - schedule[step]) * point.log_ratio.double()
        if step:
            point, _ = _move(at, point, schedule[step], sizes[step - 1], some)
    return log_weights


def _step_sizes(at: At, some: list[torch.Generator], like: Tensor, steps: int) -> Tensor:
    """For each density and example ``[T, B]``: up after moves that were accepted too often, else down."""
    point = at(noise(some, PILOTS, like))
    size = torch.full_like(point.log_ratio[:, 0], FIRST_SIZE)
    gain = math.exp(max(GAIN, RANGE / steps))
    sizes = []
    for beta in _schedule(steps)[1:]:
        sizes.append(size)
        point, accepted = _move(at, point, beta, size, some)
        size = torch.where(accepted.mean(1) > ACCEPTED, size * gain, size / gain).clamp(*STEP_SIZES)
    return torch.stack(sizes)


def _schedule(steps: int) -> list[float]:
    """b from 0 to 1 in ``steps``, by a sigmoid: small at both ends, where the densities change fastest."""
    values = torch.sigmoid(STEEPNESS * torch.linspace(-1, 1, steps + 1, dtype=torch.float64))
    return ((values - values[0]) / (values[-1] - values[0])).tolist()


def _move(at: At, point: Point, beta: float, size: Tensor, some: list[torch.Generator]) -> tuple[Point, Tensor]:
    """A Hamiltonian move that leaves exp(-|u|²/2 + b · log ratio) as it is; the probabilities of acceptance ``[B, C]``.

    ``size`` ``[B]`` is the step of the leapfrogs.
    """

    def force(point: Point) -> Tensor:
        return beta * point.gradient - point.u

    def log_density(point: Point, momentum: Tensor) -> Tensor:
        quadratic = point.u.double().square() + momentum.double().square()
        return beta * point.log_ratio.double() - 0.5 * quadratic.sum(-1)

    momentum = noise(some, point.u.shape[1], point.u)
    chances = [torch.rand(2, len(row), generator=s, device=row.device) for s, row in zip(some, point.u, strict=True)]
    of_size, of_acceptance = torch.stack(chances, dim=1)
    step = (size.unsqueeze(1) * (1 + JITTER * (2 * of_size - 1))).unsqueeze(2)
    here = log_density(point, momentum)
    new, momentum = point, momentum + 0.5 * step * force(point)
    for last in [False] * (LEAPFROGS - 1) + [True]:
        new = at(new.u + step * momentum)
        momentum = momentum + (0.5 if last else 1.0) * step * force(new)
    probability = (log_density(new, momentum) - here).clamp(max=0).exp().nan_to_num(0)  # never into what overflowed
    taken = of_acceptance < probability
    chosen = (
        torch.where(taken.view(taken.shape + (1,) * (a.dim() - 2)), b, a) for a, b in zip(point, new, strict=True)
    )
    return Point(*chosen), probability


def _points(model: VAE, x: Tensor, mean: Tensor, scale: Tensor, budget: int) -> At:
    """The function from u ``[B, C, D]`` to log ratio and gradient for x ``[B, …]``; ``budget`` pairs at a time."""

    @torch.enable_grad()
    def part(u: Tensor) -> Point:
        u = u.detach().requires_grad_()
        z = mean + scale * u
        with second_order(model):  # gradients in evaluation mode
            log_ratio = model.log_prob(x, z) + model.prior.log_prob(z) - standard.log_prob(u) + log_scale
            (gradient,) = torch.autograd.grad(log_ratio.sum(), [u])
        return Point(u.detach(), log_ratio.detach(), gradient)

    standard = Gaussian(torch.zeros_like(mean[:, 0]), torch.zeros_like(mean[:, 0]))
    log_scale = scale.log().sum(-1)
    chains = max(1, budget // len(x))

    def at(u: Tensor) -> Point:
        return Point(*(torch.cat(parts, dim=1) for parts in zip(*map(part, u.split(chains, dim=1)), strict=True)))

    return at
