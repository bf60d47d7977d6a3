"""How far q(z|x) lags behind the model's true posterior p(z|x) ∝ p(x|z) p(z).

With one or two latent dimensions the true posterior is integrated on a lattice that adapts to each example. With more
of them a Gaussian refined for each example stands in for it (the amortisation gap; Cremer et al., ICML 2018).

All functions expect the model in evaluation mode, give it no gradients, and decode at most ``chunk`` (example, point)
pairs at a time; no number depends on ``chunk``, nor one example's on the others. Integrals are in float64.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.evaluation.estimators.proposal import SAMPLES, joint_log_prob, refined
from bench.models.distributions import Gaussian, Posterior
from bench.models.vae import VAE

#: Dimensions of the latent -> nodes decoded per example at each level of the lattice, the coarsest first.
GRID_LEVELS = {1: (45, 45, 45), 2: (121, 81, 121, 600)}
#: Dimensions of the latent -> Gauss–Hermite nodes per dimension for expectations under q.
GAUSS_HERMITE_NODES = {1: 15, 2: 6}
BOUND = 5.0  # on either side of 0: what a standard normal prior leaves outside does not matter
MARGIN = 2.0  # around q's mean, where that is far out
#: Dimensions of the latent -> posterior mass whose cells the next level may leave out, unless they are near the rest.
TAIL_MASS = {1: 1e-6, 2: 1e-3}
DEPTH = 40.0  # nats below the highest node at which a local maximum may yet be the foot of a peak
BLOCK = 64  # examples whose lattices are in memory at a time


class TruePosterior(NamedTuple):
    """p(z|x) of N examples: mean ``[N, D]`` and log evidence log p(x) ``[N]`` in nats, float64."""

    mean: Tensor
    log_px: Tensor


def lag(model: VAE, x: Tensor, q: Posterior, generator: torch.Generator, chunk: int) -> dict[str, float]:
    """How far q(z|x) lags on average over x ``[N, …]``.

    ``lag``: distance between the means of q and of the true posterior, in the latent's units. ``lag_kl``: KL(q(z|x) ‖
    p(z|x)) in nats, NaN where q has no density. With more than two dimensions the refined Gaussian q* takes the true
    posterior's place and ``lag_kl`` is ELBO[q*] - ELBO[q], a lower bound of that KL up to the noise of its samples.
    """
    if q.mean.shape[1] in GRID_LEVELS:
        true_mean, best = true_posterior(model, x, q.mean, chunk)
        kl = best - elbo(model, x, q, generator, chunk)
    else:
        better = refined(model, x, q, generator, chunk)
        true_mean, state = better.mean, generator.get_state()
        best = elbo(model, x, better, generator, chunk)
        generator.set_state(state)  # the same noise for both: their difference is paired
        kl = best - elbo(model, x, q, generator, chunk)
    distance = torch.linalg.vector_norm(q.mean.double() - true_mean.double(), dim=1)
    return {"lag": distance.mean().item(), "lag_kl": kl.mean().item()}


@torch.no_grad()
def true_posterior(model: VAE, x: Tensor, near: Tensor, chunk: int) -> TruePosterior:
    """The true posterior of x ``[N, …]`` over one or two dimensions, by quadrature.

    ``near`` ``[N, D]`` is a guess of the means (q's), on which a node of the first lattice comes to lie.
    """
    parts = [
        _integrate(model, some, guess, chunk) for some, guess in zip(x.split(BLOCK), near.split(BLOCK), strict=True)
    ]
    return TruePosterior(torch.cat([part.mean for part in parts]), torch.cat([part.log_px for part in parts]))


def _integrate(model: VAE, x: Tensor, near: Tensor, chunk: int) -> TruePosterior:
    """The sum over the nodes of a lattice, which for a smooth density is exact as soon as its step is below the
    density's width. So each level spends its nodes on the cells that hold the mass, as finely as these are few:
    the density may be narrow, skewed or in several pieces.
    """
    counts = GRID_LEVELS[near.shape[1]]
    start, step = _first_lattice(near, counts[0])
    nodes = start.new_zeros(len(x), max(counts), start.shape[2])
    log_joint = torch.full(nodes.shape[:2], -math.inf, dtype=torch.float64, device=nodes.device)
    nodes[:, : counts[0]] = start
    log_joint[:, : counts[0]] = joint_log_prob(model, x, start, chunk)
    for level, count in enumerate(counts[1:], start=1):
        so_far = max(counts[:level])
        kept = _cells_with_mass(nodes[:, :so_far], log_joint[:, :so_far], step)
        splits = _splits(count / kept.sum(1), step)
        rows = (splits.amax(1) > 1).nonzero().squeeze(1)  # the others' lattice stays: their mass takes it all
        if not len(rows):
            continue
        finer, used, step[rows] = _split(nodes[rows], kept[rows], step[rows], splits[rows])
        width = finer.shape[1]
        nodes[rows, :width] = finer
        log_joint[rows] = -math.inf
        log_joint[rows, :width] = joint_log_prob(model, x[rows], finer, chunk).masked_fill(~used, -math.inf)
    log_px = torch.logsumexp(log_joint, dim=1) + step.double().log().sum(1)
    return TruePosterior((log_joint.softmax(1).unsqueeze(2) * nodes.double()).sum(1), log_px)


def _first_lattice(near: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Nodes ``[N, count, D]`` over the prior's bulk and around ``near``, one of them right there; steps ``[N, D]``."""
    dim = near.shape[1]
    side = round(count ** (1 / dim))
    low = (near - MARGIN).clamp(max=-BOUND)
    step = ((near + MARGIN).clamp(min=BOUND) - low) / side
    place = (near - low) / step - 0.5
    index = torch.tensor(list(itertools.product(range(side), repeat=dim)), device=near.device)
    return low.unsqueeze(1) + (index + 0.5 + (place - place.round()).unsqueeze(1)) * step.unsqueeze(1), step


def _cells_with_mass(nodes: Tensor, log_joint: Tensor, step: Tensor) -> Tensor:
    """Mask ``[N, M]`` of the nodes whose cells hold all but the ``TAIL`` of the mass, of the local maxima that are not
    hopeless, and of all next to them: a peak narrower than a cell may rise beside a node."""
    mass, order = log_joint.softmax(1).sort(dim=1, descending=True)
    before = mass.cumsum(1) - mass
    holds = torch.zeros_like(log_joint, dtype=torch.bool).scatter(1, order, before < 1 - TAIL_MASS[nodes.shape[2]])
    apart = (nodes.unsqueeze(2) - nodes.unsqueeze(1)).abs()
    adjacent = (apart < 1.5 * step[:, None, None]).all(-1)
    highest_near = log_joint.unsqueeze(1).masked_fill(~adjacent, -math.inf).amax(2)
    holds |= (log_joint == highest_near) & (log_joint > log_joint.amax(1, keepdim=True) - DEPTH)
    return (adjacent & holds.unsqueeze(1)).any(2) & log_joint.isfinite()


def _splits(room: Tensor, step: Tensor) -> Tensor:
    """Into how many parts ``[N, D]`` to split each cell per dimension, for at most ``room`` ``[N]`` parts in all; the
    widest dimension gets what is left over."""
    dim = step.shape[1]
    each = room.pow(1 / dim).add(1e-6).floor()
    left = (room / each ** (dim - 1)).add(1e-6).floor()
    return each.unsqueeze(1).repeat(1, dim).scatter(1, step.argmax(1, keepdim=True), left.unsqueeze(1)).long()


def _split(nodes: Tensor, kept: Tensor, step: Tensor, splits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each kept cell into ``splits`` parts: nodes ``[N, M', D]``, which of them are used, and their steps."""
    dim = nodes.shape[2]
    first = kept.long().argsort(dim=1, descending=True, stable=True)
    per_cell = splits.prod(1, keepdim=True)
    number = torch.arange(int((kept.sum(1, keepdim=True) * per_cell).max()), device=nodes.device)
    cell, within = number // per_cell, number % per_cell
    used = cell < kept.sum(1, keepdim=True)
    cell = first.gather(1, cell.clamp(max=kept.shape[1] - 1))
    centre = nodes.gather(1, cell.unsqueeze(2).expand(-1, -1, dim))
    digits = within.unsqueeze(2) // (splits.cumprod(1) // splits).unsqueeze(1) % splits.unsqueeze(1)
    finer = step / splits
    return centre + (digits + 0.5 - splits.unsqueeze(1) / 2) * finer.unsqueeze(1), used, finer


@torch.no_grad()
def elbo(model: VAE, x: Tensor, q: Posterior, generator: torch.Generator, chunk: int) -> Tensor:
    """E_q[log p(x, z) - log q(z|x)] of each example: x ``[N, …]`` -> ``[N]`` in nats, float64.

    For a Gaussian over one or two dimensions by Gauss–Hermite quadrature, else from samples. Exact for q = p(z|x).
    """
    z, weights = _points(q, generator)
    log_q = q.log_prob(z).double() if q.has_density else torch.full(z.shape[:2], math.nan, device=z.device)
    return ((joint_log_prob(model, x, z, chunk) - log_q) * weights).sum(1)


def _points(q: Posterior, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points ``[N, S, D]`` and weights ``[S]`` for expectations under q."""
    dim = q.mean.shape[1]
    if not isinstance(q, Gaussian) or dim not in GAUSS_HERMITE_NODES:
        return q.rsample(SAMPLES, generator), torch.full((SAMPLES,), 1 / SAMPLES, device=q.mean.device)
    nodes, weights = np.polynomial.hermite_e.hermegauss(GAUSS_HERMITE_NODES[dim])
    grid = torch.tensor(list(itertools.product(nodes, repeat=dim))).to(q.mean)
    products = torch.tensor([math.prod(pair) for pair in itertools.product(weights, repeat=dim)], dtype=torch.float64)
    z = q.mean.unsqueeze(1) + (0.5 * q.logvar).exp().unsqueeze(1) * grid
    return z, (products / products.sum()).to(q.mean.device)
