"""Distance of q(z|x) from the model's true posterior p(z|x) ∝ p(x|z) p(z): the lag of the inference network.

With one or two latent dimensions the true posterior is integrated on a grid that adapts to each example. With more, a
Gaussian refined per example is used in its place (amortisation gap; Cremer et al., ICML 2018).

The model is in evaluation mode and gets no gradients. At most ``chunk`` (example, point) pairs are decoded at a time.
No number depends on ``chunk``, nor on the other examples. Integrals are in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.evaluation.estimators.full_gaussian import FullGaussian, fit_full_gaussian
from bench.evaluation.estimators.proposal import NUM_SAMPLES, joint_log_prob, refined
from bench.models.distributions import LOG_2PI, Gaussian, Posterior, StandardNormal
from bench.models.vae import VAE

#: Latent dimensions -> nodes decoded per example at each level of the grid, from coarse to fine.
GRID_LEVELS = {1: (45, 45, 45), 2: (121, 81, 121, 600)}
#: Latent dimensions -> Gauss–Hermite nodes per dimension for expectations under q.
GAUSS_HERMITE_NODES = {1: 15, 2: 6}
PRIOR_BOUND = 5.0  # half width of the first grid; a standard normal prior has negligible mass outside
PRIOR_SAMPLES = 10_000  # of a learned prior, which may be wider
MEAN_MARGIN = 2.0  # of the first grid around q's mean, if that is far from 0
#: Latent dimensions -> posterior mass whose cells the next level may omit, unless they are next to the others.
TAIL_MASS = {1: 1e-6, 2: 1e-3}
PEAK_DEPTH = 40.0  # nats below the highest node at which a local maximum may still be the flank of a peak
FIT_ITERATIONS = 6  # of the Gaussian whose scale is compared with the grid's step
FRAME_BOUND = 8.0  # half width of the first grid along the posterior's axes, in its standard deviations
MAX_STEP = 1.5  # of a grid that resolves a peak, in standard deviations along its shortest axis
MAX_DEVIATION = 0.2  # nats by which the mass of a nearly Gaussian peak differs from that of a Gaussian of equal height
OTHER_MASS = 1e-5  # of a cell relative to the peak
BLOCK = 64  # examples whose grids are in memory at a time


class TruePosterior(NamedTuple):
    """p(z|x) of N examples: mean ``[N, D]`` and log evidence log p(x) ``[N]`` in nats, float64."""

    mean: Tensor
    log_px: Tensor


def lag(model: VAE, x: Tensor, q: Posterior, generator: torch.Generator, chunk: int) -> dict[str, float]:
    """Return the mean lag of q(z|x) over x ``[N, …]``.

    ``lag``: distance between the means of q and of the true posterior, in units of z. ``lag_kl``: KL(q(z|x) ‖ p(z|x))
    in nats, NaN if q has no density. With more than two dimensions the refined Gaussian q* replaces the true
    posterior, and ``lag_kl`` is ELBO[q*] - ELBO[q], a lower bound of that KL up to sampling noise.
    """
    if q.mean.shape[1] in GRID_LEVELS:
        true_mean, best = true_posterior(model, x, q.mean, chunk)
    else:
        better = refined(model, x, q, generator, chunk)
        true_mean, state = better.mean, generator.get_state()
        best = elbo(model, x, better, generator, chunk)
        generator.set_state(state)  # the same noise for both, so that their difference is paired
    kl = best - elbo(model, x, q, generator, chunk)
    distance = torch.linalg.vector_norm(q.mean.double() - true_mean.double(), dim=1)
    return {"lag": distance.mean().item(), "lag_kl": kl.mean().item()}


@torch.no_grad()
def true_posterior(model: VAE, x: Tensor, guess: Tensor, chunk: int) -> TruePosterior:
    """Compute the true posterior of x ``[N, …]`` over one or two dimensions by quadrature.

    ``guess`` ``[N, D]`` approximates the means (q's means); a node of the first grid lies on it.
    """
    blocks = zip(x.split(BLOCK), guess.split(BLOCK), strict=True)
    parts = [_true_posterior(model, block, means, chunk) for block, means in blocks]
    return TruePosterior(torch.cat([part.mean for part in parts]), torch.cat([part.log_px for part in parts]))


def _true_posterior(model: VAE, x: Tensor, guess: Tensor, chunk: int) -> TruePosterior:
    """Integrate on a grid along the axes of z, and where that is too coarse on one along the axes of the posterior.

    The second grid covers one peak. Its result is used if that peak is nearly Gaussian and the first grid has found no
    mass elsewhere.
    """
    dim, bound = guess.shape[1], _prior_bound(model, guess)
    low, high = torch.minimum(guess - MEAN_MARGIN, -bound), torch.maximum(guess + MEAN_MARGIN, bound)
    grid = _integrate(lambda z, rows: joint_log_prob(model, x[rows], z, chunk), low, high, guess)
    mean, log_px = grid.mean(), grid.log_mass()
    fit = fit_full_gaussian(model, x, FullGaussian.diagonal(grid.gaussian()), chunk, FIT_ITERATIONS)
    if len(coarse := (grid.step.amax(1) > MAX_STEP * fit.smallest_scale()).nonzero().squeeze(1)):
        frame = fit_full_gaussian(model, x[coarse], fit[coarse], chunk)  # u ~ N(0, I) if the posterior is Gaussian

        def log_joint_at(u: Tensor, rows: Tensor) -> Tensor:
            return joint_log_prob(model, x[coarse[rows]], frame[rows].transform(u).to(frame.dtype), chunk)

        origin = torch.zeros_like(frame.mean)
        finer = _integrate(log_joint_at, origin - FRAME_BOUND, origin + FRAME_BOUND, origin)
        expected = log_joint_at(origin.unsqueeze(1), torch.arange(len(coarse))).squeeze(1) + 0.5 * dim * LOG_2PI
        is_gaussian = (finer.log_mass() - expected).abs() < MAX_DEVIATION
        outside = frame.whiten(grid.nodes[coarse]).abs().amax(2) > FRAME_BOUND  # (N, M)
        cells = grid.log_joint[coarse] + (grid.step[coarse].log().sum(1) - frame.log_volume()).unsqueeze(1)
        is_alone = ~(outside & (cells > expected.unsqueeze(1) + math.log(OTHER_MASS))).any(1)
        use = is_gaussian & is_alone
        mean[coarse[use]] = frame.transform(finer.mean().unsqueeze(1)).squeeze(1)[use]
        log_px[coarse[use]] = (finer.log_mass() + frame.log_volume())[use]
    return TruePosterior(mean, log_px)


def _prior_bound(model: VAE, like: Tensor) -> Tensor:
    """Return the half width ``[D]`` of the first grid: 5, or more if samples of a learned prior are outside."""
    standard = torch.full_like(like[0], PRIOR_BOUND)
    if type(model.prior) is StandardNormal:
        return standard
    samples = model.prior.sample(PRIOR_SAMPLES, torch.Generator(like.device).manual_seed(0), like.device)
    return torch.maximum(standard, samples.abs().amax(0).to(like))


class _Grid(NamedTuple):
    """Cells of N densities: nodes ``[N, M, D]``, log density ``[N, M]`` in float64, and side lengths ``[N, D]``."""

    nodes: Tensor
    log_joint: Tensor
    step: Tensor

    def log_mass(self) -> Tensor:
        return torch.logsumexp(self.log_joint, dim=1) + self.step.double().log().sum(1)

    def mean(self) -> Tensor:
        return (self.log_joint.softmax(1).unsqueeze(2) * self.nodes.double()).sum(1)

    def gaussian(self) -> Gaussian:
        """Return the diagonal Gaussian of equal moments, not much narrower than a cell."""
        mean = self.mean()
        squared = (self.nodes.double() - mean.unsqueeze(1)).square()
        variance = (self.log_joint.softmax(1).unsqueeze(2) * squared).sum(1)
        variance = torch.maximum(variance, (0.1 * self.step.double()).square())
        return Gaussian(mean.to(self.nodes.dtype), variance.log().to(self.nodes.dtype))


def _integrate(log_joint_at: Callable[[Tensor, Tensor], Tensor], low: Tensor, high: Tensor, guess: Tensor) -> _Grid:
    """Sum over the nodes of a grid, which for a smooth density is exact once the step is below the density's width.

    Each level places its nodes in the cells that contain the mass, more finely the fewer these are, because the
    density may be narrow, skewed or multimodal. ``log_joint_at(nodes, rows)`` evaluates the densities ``rows``; the
    first level covers ``low`` to ``high`` ``[N, D]``, with a node on ``guess``.
    """
    counts = GRID_LEVELS[guess.shape[1]]
    start, step = _first_grid(low, high, guess, counts[0])
    everything = torch.arange(len(guess), device=guess.device)
    nodes = start.new_zeros(len(guess), max(counts), start.shape[2])  # (N, M, D)
    log_joint = torch.full(nodes.shape[:2], -math.inf, dtype=torch.float64, device=nodes.device)  # (N, M)
    nodes[:, : counts[0]] = start
    log_joint[:, : counts[0]] = log_joint_at(start, everything)
    for level, count in enumerate(counts[1:], start=1):
        filled = max(counts[:level])
        selected = _cells_with_mass(nodes[:, :filled], log_joint[:, :filled], step)
        splits = _splits(count / selected.sum(1), step)
        rows = (splits.amax(1) > 1).nonzero().squeeze(1)  # the other examples keep their grid: mass in every cell
        if not len(rows):
            continue
        finer, used, step[rows] = _split(nodes[rows], selected[rows], step[rows], splits[rows])
        width = finer.shape[1]
        nodes[rows, :width] = finer
        log_joint[rows] = -math.inf
        log_joint[rows, :width] = log_joint_at(finer, rows).masked_fill(~used, -math.inf)
    return _Grid(nodes, log_joint, step)


def _first_grid(low: Tensor, high: Tensor, guess: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return nodes ``[N, count, D]`` from ``low`` to ``high``, with a node on ``guess``, and steps ``[N, D]``."""
    dim = guess.shape[1]
    side = round(count ** (1 / dim))
    step = (high - low) / side
    place = (guess - low) / step - 0.5
    index = torch.tensor(list(itertools.product(range(side), repeat=dim)), device=guess.device)
    return low.unsqueeze(1) + (index + 0.5 + (place - place.round()).unsqueeze(1)) * step.unsqueeze(1), step


def _cells_with_mass(nodes: Tensor, log_joint: Tensor, step: Tensor) -> Tensor:
    """Return a mask ``[N, M]`` of the nodes to refine.

    These are the nodes whose cells contain all but ``TAIL_MASS`` of the mass, local maxima within ``PEAK_DEPTH``, and
    all neighbours of both, because a peak narrower than a cell may lie next to a node.
    """
    mass, order = log_joint.softmax(1).sort(dim=1, descending=True)
    before = mass.cumsum(1) - mass
    has_mass = torch.zeros_like(log_joint, dtype=torch.bool).scatter(1, order, before < 1 - TAIL_MASS[nodes.shape[2]])
    distance = (nodes.unsqueeze(2) - nodes.unsqueeze(1)).abs()
    adjacent = (distance < 1.5 * step[:, None, None]).all(-1)
    neighbourhood_max = log_joint.unsqueeze(1).masked_fill(~adjacent, -math.inf).amax(2)
    has_mass |= (log_joint == neighbourhood_max) & (log_joint > log_joint.amax(1, keepdim=True) - PEAK_DEPTH)
    return (adjacent & has_mass.unsqueeze(1)).any(2) & log_joint.isfinite()


def _splits(room: Tensor, step: Tensor) -> Tensor:
    """Return into how many parts ``[N, D]`` to split each cell per dimension, for at most ``room`` ``[N]`` parts.

    The widest dimension gets what remains after equal splits.
    """
    dim = step.shape[1]
    equal = room.pow(1 / dim).add(1e-6).floor().clamp(min=1)  # 1 / 0 is another integer on a GPU than on a CPU
    widest = (room / equal ** (dim - 1)).add(1e-6).floor()
    return equal.unsqueeze(1).repeat(1, dim).scatter(1, step.argmax(1, keepdim=True), widest.unsqueeze(1)).long()


def _split(nodes: Tensor, selected: Tensor, step: Tensor, splits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split each selected cell into ``splits`` parts: nodes ``[N, M', D]``, a mask of used ones, and their steps."""
    dim = nodes.shape[2]
    selected_first = selected.long().argsort(dim=1, descending=True, stable=True)
    per_cell = splits.prod(1, keepdim=True)
    number = torch.arange(int((selected.sum(1, keepdim=True) * per_cell).max()), device=nodes.device)
    cell, within = number // per_cell, number % per_cell
    used = cell < selected.sum(1, keepdim=True)
    cell = selected_first.gather(1, cell.clamp(max=selected.shape[1] - 1))
    centre = nodes.gather(1, cell.unsqueeze(2).expand(-1, -1, dim))
    digits = within.unsqueeze(2) // (splits.cumprod(1) // splits).unsqueeze(1) % splits.unsqueeze(1)
    finer = step / splits
    return centre + (digits + 0.5 - splits.unsqueeze(1) / 2) * finer.unsqueeze(1), used, finer


@torch.no_grad()
def elbo(model: VAE, x: Tensor, q: Posterior, generator: torch.Generator, chunk: int) -> Tensor:
    """Return E_q[log p(x, z) - log q(z|x)] of each example: x ``[N, …]`` -> ``[N]`` in nats, float64.

    By Gauss–Hermite quadrature for a Gaussian over one or two dimensions, else from samples. Exact for q = p(z|x).
    """
    z, weights = _quadrature_points(q, generator)
    log_q = q.log_prob(z).double() if q.has_density else torch.full(z.shape[:2], math.nan, device=z.device)
    return ((joint_log_prob(model, x, z, chunk) - log_q) * weights).sum(1)


def _quadrature_points(q: Posterior, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points ``[N, S, D]`` and weights ``[S]`` for expectations under q."""
    dim = q.mean.shape[1]
    if not isinstance(q, Gaussian) or dim not in GAUSS_HERMITE_NODES:
        return q.rsample(NUM_SAMPLES, generator), torch.full((NUM_SAMPLES,), 1 / NUM_SAMPLES, device=q.mean.device)
    nodes, weights = np.polynomial.hermite_e.hermegauss(GAUSS_HERMITE_NODES[dim])
    grid = torch.tensor(list(itertools.product(nodes, repeat=dim))).to(q.mean)
    products = torch.tensor([math.prod(pair) for pair in itertools.product(weights, repeat=dim)], dtype=torch.float64)
    z = q.mean.unsqueeze(1) + (0.5 * q.logvar).exp().unsqueeze(1) * grid
    return z, (products / products.sum()).to(q.mean.device)
