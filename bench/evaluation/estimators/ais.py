"""Annealed importance sampling (Neal, 2001) with Hamiltonian moves, for decoders (Wu et al., ICLR 2017).

The path leads from a Gaussian q (N(0, I) by default) to the joint density p(x, z), through the densities
q(z) (p(x, z) / q(z))^b with b from 0 to 1. If q is the prior, these are p(z) p(x|z)^b. Moves are in coordinates u in
which q is standard normal.

The mean of the weights is unbiased for p(x), so its log is a lower bound of log p(x) in expectation. This requires
moves that do not depend on the past of the chain. Step sizes, one per example and density, are therefore set by pilot
chains that are then discarded.

The model is in evaluation mode and gets no gradients. At most ``chunk`` (example, chain) pairs are decoded at a time.
No number depends on ``chunk``, nor on the other examples. Weights are summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bench.evaluation.estimators.full_gaussian import MAX_PAIRS_WITH_GRADIENT
from bench.evaluation.estimators.proposal import noise, streams
from bench.models.distributions import Gaussian
from bench.models.vae import VAE, second_order

LEAPFROG_STEPS = 10
PILOT_CHAINS = 4
TARGET_ACCEPTANCE = 0.65
STEP_SIZE_RANGE = (1e-4, 0.5)
INITIAL_STEP_SIZE = 0.1
JITTER = 0.2  # relative variation of each move's step size; a fixed one can be in resonance with the density
ADAPTATION = 0.02  # change of the log step size per pilot move
TOTAL_ADAPTATION = 4.0  # possible change over all pilot moves; with few moves, each changes more
SCHEDULE_STEEPNESS = 4.0  # of the sigmoid


class ChainState(NamedTuple):
    """State of the chains: u ``[B, C, D]``, log p(x, z) - log q(z) ``[B, C]``, and its gradient by u ``[B, C, D]``."""

    u: Tensor
    log_ratio: Tensor
    gradient: Tensor


StateAt = Callable[[Tensor], ChainState]


@torch.no_grad()
def ais_log_weights(
    model: VAE,
    x: Tensor,
    generator: torch.Generator,
    chunk: int,
    chains: int = 10,
    steps: int = 500,
    start: Gaussian | None = None,
) -> Tensor:
    """Return log weights ``[B, chains]`` of x ``[B, …]`` in nats, float64, over ``steps`` densities after ``start``.

    Their ``importance_weighted_nll`` is an upper bound of -log p(x) in expectation, which decreases with ``steps``.
    """
    if start is None:
        origin = next(model.parameters()).new_zeros(len(x), model.latent_dim)
        start = Gaussian(origin, origin)
    budget = min(chunk, MAX_PAIRS_WITH_GRADIENT)
    examples = max(1, budget // chains)
    all_generators, weights = streams(generator, len(x)), []
    for first in range(0, len(x), examples):
        rows, generators = slice(first, first + examples), all_generators[first : first + examples]
        mean, scale = start.mean[rows].unsqueeze(1), (0.5 * start.logvar[rows]).exp().unsqueeze(1)
        state_at = _state_function(model, x[rows], mean, scale, budget)
        sizes = _step_sizes(state_at, generators, mean, steps)
        weights.append(_anneal(state_at, state_at(noise(generators, chains, mean)), sizes, generators))
    return torch.cat(weights)


def _anneal(state_at: StateAt, state: ChainState, sizes: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Return log weights ``[B, C]`` of chains that start from q; ``sizes`` ``[T, B]``, one per density after q."""
    schedule = _schedule(len(sizes))
    log_weights = torch.zeros_like(state.log_ratio, dtype=torch.float64)
    for before, beta, size in zip(schedule[:-1], schedule[1:], sizes, strict=True):
        log_weights += (beta - before) * state.log_ratio.double()
        if beta < 1:  # a move in the last density, the target, changes no weight
            state, _ = _move(state_at, state, beta, size, generators)
    return log_weights


def _step_sizes(state_at: StateAt, generators: list[torch.Generator], like: Tensor, steps: int) -> Tensor:
    """Adapt a step size per density and example ``[T, B]`` with pilot chains: up if acceptance is above the target."""
    state = state_at(noise(generators, PILOT_CHAINS, like))
    size = torch.full_like(state.log_ratio[:, 0], INITIAL_STEP_SIZE)
    factor = math.exp(max(ADAPTATION, TOTAL_ADAPTATION / steps))
    sizes = []
    for beta in _schedule(steps)[1:]:
        sizes.append(size)
        state, acceptance = _move(state_at, state, beta, size, generators)
        adapted = torch.where(acceptance.mean(1) > TARGET_ACCEPTANCE, size * factor, size / factor)
        size = adapted.clamp(*STEP_SIZE_RANGE)
    return torch.stack(sizes)


def _schedule(steps: int) -> list[float]:
    """Return b from 0 to 1 in ``steps`` sigmoidal steps, small at both ends where the densities change fastest."""
    values = torch.sigmoid(SCHEDULE_STEEPNESS * torch.linspace(-1, 1, steps + 1, dtype=torch.float64))
    return ((values - values[0]) / (values[-1] - values[0])).tolist()


def _move(
    state_at: StateAt, state: ChainState, beta: float, size: Tensor, generators: list[torch.Generator]
) -> tuple[ChainState, Tensor]:
    """Make a Hamiltonian move that leaves exp(-|u|²/2 + b · log ratio) invariant.

    ``size`` ``[B]`` is the leapfrog step size. Returns the new state and the acceptance probabilities ``[B, C]``.
    """

    def force(state: ChainState) -> Tensor:
        return beta * state.gradient - state.u

    def log_density(state: ChainState, momentum: Tensor) -> Tensor:
        quadratic = state.u.double().square() + momentum.double().square()
        return beta * state.log_ratio.double() - 0.5 * quadratic.sum(-1)

    momentum = noise(generators, state.u.shape[1], state.u)
    uniforms = [
        torch.rand(2, len(row), generator=generator, device=row.device)
        for generator, row in zip(generators, state.u, strict=True)
    ]
    for_size, for_acceptance = torch.stack(uniforms, dim=1)  # (B, C) each
    step = (size.unsqueeze(1) * (1 + JITTER * (2 * for_size - 1))).unsqueeze(2)
    before = log_density(state, momentum)
    proposed, momentum = state, momentum + 0.5 * step * force(state)
    for is_last in [False] * (LEAPFROG_STEPS - 1) + [True]:
        proposed = state_at(proposed.u + step * momentum)
        momentum = momentum + (0.5 if is_last else 1.0) * step * force(proposed)
    probability = (log_density(proposed, momentum) - before).clamp(max=0).exp().nan_to_num(0)  # reject overflows
    accepted = for_acceptance < probability
    chosen = (
        torch.where(accepted.view(accepted.shape + (1,) * (old.dim() - 2)), new, old)
        for old, new in zip(state, proposed, strict=True)
    )
    return ChainState(*chosen), probability


def _state_function(model: VAE, x: Tensor, mean: Tensor, scale: Tensor, budget: int) -> StateAt:
    """Return the function from u ``[B, C, D]`` to the state of x ``[B, …]``; it decodes ``budget`` pairs at a time."""

    @torch.enable_grad()
    def evaluate(u: Tensor) -> ChainState:
        u = u.detach().requires_grad_()
        z = mean + scale * u
        with second_order(model):  # gradients in evaluation mode
            log_ratio = model.log_prob(x, z) + model.prior.log_prob(z) - standard.log_prob(u) + log_scale
            (gradient,) = torch.autograd.grad(log_ratio.sum(), [u])
        return ChainState(u.detach(), log_ratio.detach(), gradient)

    standard = Gaussian(torch.zeros_like(mean[:, 0]), torch.zeros_like(mean[:, 0]))
    log_scale = scale.log().sum(-1)
    chains = max(1, budget // len(x))

    def state_at(u: Tensor) -> ChainState:
        parts = map(evaluate, u.split(chains, dim=1))
        return ChainState(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))

    return state_at
