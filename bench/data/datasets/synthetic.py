"""Synthetic: sentences of ten words from a random LSTM with a known latent variable. Needs no download.

The generator of He et al. (2019), §5.1: z from an equal mixture of four unit Gaussians at (±2, ±2); the first word is
uniform; a one-layer LSTM of 100 units with c0 = W z and h0 = tanh(c0) reads [embedding of the previous word; z]; the
next word is drawn from softmax(W1 h + W2 z). All weights are U(-1, 1), except W2, U(-5, 5). The sentences are not those
of the authors.

Since z has two dimensions, -log p(x) of every test sentence can be computed; its mean is the lowest NLL that a model
can reach in expectation. ``synthetic(vocab=200)`` is smaller.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.data.cache import cached
from bench.data.corpus import text_arrays, text_info
from bench.data.dataset import DataInfo, Prepared

SUMMARY = "sentences of a random LSTM with a known latent variable and known entropy; synthetic(vocab=200) is smaller"
NEEDS_DOWNLOAD = False
SETTINGS = {"vocab": 1000}

SIZES = {"train": 16_000, "val": 2_000, "test": 2_000}
WORDS = 10
SEED = 20_190_506
MAX_VOCAB = 10_000  # the time for the exact NLL is proportional to the vocabulary size
PREPARATION_VERSION = 1  # increase when the same settings give different arrays

# Numerical integration of the marginal: see Generator.log_marginal.
COARSEST = 0.5  # spacing of the first lattice
REACH = 14  # points of the first lattice on each side of 0: ±7, outside of which the prior has a mass of 1e-6
DEPTH = 7.0  # nats below the maximum of p(x, z) at which the lattice ends
POINTS = 25  # minimum effective number of lattice points in a posterior

_BLOCK = 256  # rows at a time, so that their logits stay in the processor's cache


def prepare(data_dir: Path | None, cache: Path, vocab: int = SETTINGS["vocab"]) -> Prepared:
    """Generate the sentences over ``vocab`` words; ``data_dir`` is not used.

    About a minute the first time, mostly for the exact NLL. Raise ``UserError`` for an invalid ``vocab``.
    """
    if type(vocab) is not int or not 2 <= vocab <= MAX_VOCAB:
        raise UserError(f"synthetic: 'vocab' must be an integer from 2 to {MAX_VOCAB:,}, not {vocab!r}")

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        print("generating the synthetic sentences and their exact NLL, once: about a minute", file=sys.stderr)
        arrays, information = generate(Generator(vocab))
        name = "synthetic" if vocab == SETTINGS["vocab"] else f"synthetic-vocab={vocab}"
        source = f"generated with seed {SEED} after He et al. (2019), §5.1"
        note = (
            f"The true generator has an NLL of {arrays['test_nll'].mean():.2f} nats on the test sentences, the minimum "
            f"in expectation; its latent variable accounts for {information:.2f} of them."
        )
        info = text_info(name, f"synthetic ({vocab:,} words)", source, arrays)
        return replace(info, notes=(note,), protocol="synthetic"), arrays

    return cached(cache, f"synthetic-{vocab}-{SEED}-r{PREPARATION_VERSION}", build)


def generate(generator: Generator) -> tuple[dict[str, np.ndarray], float]:
    """Return the arrays of ``Prepared``, and an estimate of the generator's I(x; z) in nats on the test set."""
    samples = {split: generator.sample(size, stream) for stream, (split, size) in enumerate(SIZES.items(), 1)}
    words = np.array([f"w{index}" for index in range(generator.vocab)])
    sentences = {split: words[tokens].tolist() for split, (tokens, _) in samples.items()}
    arrays = text_arrays(sentences, words=words.tolist())
    tokens, z = samples["test"]
    log_marginal = generator.log_marginal(tokens)
    # Rounded, because the last bits of matrix products differ between machines.
    arrays["test_nll"] = np.round(-log_marginal, 3)
    return arrays, float((generator.log_prob(tokens, z[:, None])[:, 0] - log_marginal).mean())


class Generator:
    """The distribution of the sentences, int64 ``[N, 10]``; tokens are 0 … ``vocab`` - 1.

    All in float64: the LSTM amplifies rounding errors, and in float32 some sampled words would depend on the machine.
    """

    latent, embedding, units = 2, 100, 100

    def __init__(self, vocab: int, seed: int = SEED):
        self.vocab, self.seed = vocab, seed
        random = self._random(0)

        def uniform(*shape: int, bound: float = 1.0) -> np.ndarray:
            return bound * (2 * random.random(shape) - 1)

        embeddings = uniform(vocab, self.embedding)
        inputs = uniform(self.embedding + self.latent, 4 * self.units)
        hidden = uniform(self.units, 4 * self.units)
        biases = uniform(2, 4 * self.units).sum(axis=0)  # of inputs and of states
        self.initial = uniform(self.latent, self.units)
        self.output = np.vstack([uniform(self.units, vocab), uniform(self.latent, vocab, bound=5.0)])  # W1 over W2
        # Gates in the order input, forget, candidate, output. All but the candidate are sigmoids, and
        # sigmoid(a) = (1 + tanh(a / 2)) / 2, so that one tanh serves all four.
        halves = np.repeat([0.5, 0.5, 1.0, 0.5], self.units)
        self.embedded = (embeddings @ inputs[: self.embedding] + biases) * halves
        self.recurrent = np.vstack([hidden, inputs[self.embedding :]]) * halves

    def _random(self, stream: int) -> np.random.Generator:
        """Return a counter-based generator, whose uniform numbers are the same on every machine."""
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, stream], dtype=np.uint64)))

    def sample(self, count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample sentences, int64 ``[count, 10]``, and their z, float64 ``[count, 2]``; ``stream`` is at least 1."""
        random = self._random(stream)
        means = np.where(random.random((count, self.latent)) < 0.5, -2.0, 2.0)
        radius, angle = np.sqrt(-2 * np.log1p(-random.random(count))), 2 * np.pi * random.random(count)
        z = means + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # Box & Muller (1958)
        uniform = random.random((count, WORDS))
        tokens = np.empty((count, WORDS), np.int64)
        tokens[:, 0] = uniform[:, 0] * self.vocab
        for start in range(0, count, _BLOCK):
            rows = slice(start, start + _BLOCK)
            state, cell = self._start(z[rows])
            for t in range(1, WORDS):
                cell = self._step(tokens[rows, t - 1], state, cell)
                cumulative = np.exp(state @ self.output).cumsum(axis=1)
                tokens[rows, t] = (cumulative <= uniform[rows, t, None] * cumulative[:, -1:]).sum(axis=1)
        return tokens, z

    def log_prob(self, tokens: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(x|z) of sentences ``[N, 10]`` at z ``[N, S, 2]``: float64 ``[N, S]``."""
        count, samples, _ = z.shape
        return self._log_prob(np.repeat(tokens, samples, axis=0), z.reshape(-1, self.latent)).reshape(count, samples)

    def prior_log_prob(self, z: np.ndarray) -> np.ndarray:
        """Return log p(z) of z ``[…, 2]``: float64 ``[…]``; dimensions are independent mixtures of two Gaussians."""
        by_dimension = np.logaddexp(-((z - 2) ** 2) / 2, -((z + 2) ** 2) / 2) - np.log(2) - np.log(2 * np.pi) / 2
        return by_dimension.sum(axis=-1)

    def log_marginal(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p(x) of sentences ``[N, 10]``: float64 ``[N]``, rms error 0.003 nats (of the mean: 0.001).

        The sum of p(x, z) over a square lattice of z, that is, the trapezoidal rule. The posteriors are irregular and
        0.1 to 0.7 wide. From the points that are likely according to W2 alone, the lattice grows to all points within
        ``DEPTH`` nats of the maximum, and its spacing is halved until the posterior covers ``POINTS`` points.
        """
        blocks = [self._integrate(tokens[start : start + 50]) for start in range(0, len(tokens), 50)]
        return np.concatenate(blocks)

    def _integrate(self, tokens: np.ndarray) -> np.ndarray:
        result, left = np.empty(len(tokens)), np.arange(len(tokens))
        spacing, axis = COARSEST, COARSEST * np.arange(-REACH, REACH + 1)
        frontier = self._promising(tokens, axis)
        values = np.full(frontier.shape, -np.inf)  # log p(x, z) where it has been evaluated
        while True:
            while frontier.any():
                row, first, second = np.nonzero(frontier)
                z = np.stack([axis[first], axis[second]], axis=1)
                values[frontier] = self._log_prob(tokens[left[row]], z) + self.prior_log_prob(z)
                frontier = _neighbourhood(_high(values)) & np.isneginf(values)
            highest = values.max(axis=(1, 2))
            weights = np.exp(values - highest[:, None, None])
            total = weights.sum(axis=(1, 2))
            result[left] = highest + np.log(total) + 2 * np.log(spacing)
            covered = total**2 / (weights**2).sum(axis=(1, 2))  # effective number of points
            narrow = covered < POINTS
            if not narrow.any():
                return result
            left, values, (spacing, axis) = left[narrow], _halved(values[narrow]), _halved_axis(axis)
            frontier = _neighbourhood(_high(values)) & np.isneginf(values)

    def _promising(self, tokens: np.ndarray, axis: np.ndarray) -> np.ndarray:
        """Return the first lattice points to evaluate: bool ``[N, G, G]``.

        They are likely under softmax(W2 z), without the LSTM; that log-likelihood is halved because the LSTM
        contributes nearly as much.
        """
        z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, self.latent)
        logits = z @ self.output[self.units :]
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        likelihood = log_probs.T[tokens[:, 1:]].sum(axis=1)  # [N, G²]
        guess = (likelihood / 2 + self.prior_log_prob(z)).reshape(len(tokens), len(axis), len(axis))
        return guess > guess.max(axis=(1, 2), keepdims=True) - 4

    def _log_prob(self, tokens: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return log p(x|z) of pairs of sentences ``[R, 10]`` and z ``[R, 2]``: float64 ``[R]``."""
        result = np.full(len(z), -np.log(self.vocab))
        for start in range(0, len(z), _BLOCK):
            rows = slice(start, start + _BLOCK)
            read, (state, cell) = tokens[rows], self._start(z[rows])
            for t in range(1, WORDS):
                cell = self._step(read[:, t - 1], state, cell)
                logits = state @ self.output
                result[rows] += logits[np.arange(len(logits)), read[:, t]]
                # Logits are at most 100 + 5 (|z1| + |z2|): exp cannot overflow, the maximum need not be subtracted.
                result[rows] -= np.log(np.exp(logits, out=logits).sum(axis=1))
        return result

    def _start(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the state [h0; z] ``[R, 102]`` and the cell c0 ``[R, 100]``."""
        cell = z @ self.initial
        return np.hstack([np.tanh(cell), z]), cell

    def _step(self, tokens: np.ndarray, state: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Update ``state`` in place for the next input ``tokens`` and return the new cell."""
        gates = state @ self.recurrent
        gates += self.embedded[tokens]
        enter, forget, candidate, output = np.split(np.tanh(gates, out=gates), 4, axis=1)
        cell = ((1 + forget) * cell + (1 + enter) * candidate) / 2
        state[:, : self.units] = (1 + output) / 2 * np.tanh(cell)
        return cell


def _high(values: np.ndarray) -> np.ndarray:
    """Return the lattice points of each sentence within ``DEPTH`` nats of its maximum."""
    return values > values.max(axis=(1, 2), keepdims=True) - DEPTH


def _neighbourhood(points: np.ndarray) -> np.ndarray:
    """Return the points and their four neighbours: bool ``[N, G, G]``."""
    wider = points.copy()
    wider[:, 1:] |= points[:, :-1]
    wider[:, :-1] |= points[:, 1:]
    wider[:, :, 1:] |= points[:, :, :-1]
    wider[:, :, :-1] |= points[:, :, 1:]
    return wider


def _halved(values: np.ndarray) -> np.ndarray:
    """Return values ``[N, G, G]`` on the lattice of half the spacing, ``[N, 2G - 1, 2G - 1]``; -inf at new points."""
    side = 2 * values.shape[1] - 1
    finer = np.full((len(values), side, side), -np.inf)
    finer[:, ::2, ::2] = values
    return finer


def _halved_axis(axis: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the spacing and points of an axis with half the spacing."""
    spacing = (axis[1] - axis[0]) / 2
    return spacing, spacing * np.arange(-len(axis) + 1, len(axis))
