"""Synthetic: sentences of ten words from a random LSTM with a known latent variable. Needs no download.

The generator of He et al. (2019), §5.1: z from an equal mixture of four unit Gaussians at (±2, ±2); the first word
uniform; a one-layer LSTM of 100 units reads [embedding of the word before; z] from c0 = W z, h0 = tanh(c0); the next
word from softmax(W1 h + W2 z). All weights are U(-1, 1), those of W2 U(-5, 5). The sentences are not the authors' own.

Since z has two dimensions, -log p(x) of every test sentence is known: the NLL that no model can beat on average.
``synthetic(vocab=200)`` is a smaller relative.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.data import corpus as _text
from bench.data.cache import cached
from bench.data.dataset import Prepared

SUMMARY = "sentences of a random LSTM with a known latent variable and known entropy; synthetic(vocab=200) is smaller"
NEEDS_DOWNLOAD = False
SETTINGS = {"vocab": 1000}

SIZES = {"train": 16_000, "val": 2_000, "test": 2_000}
WORDS = 10
SEED = 20_190_506
LARGEST = 10_000  # words: the exact NLL takes time in proportion
RECIPE = 1  # raise it when the same settings come to give other arrays

# How the marginal is integrated: see Generator.log_marginal.
COARSEST = 0.5
REACH = 14  # lattice points to each side at the coarsest: ±7, beyond which the prior has 1e-6
DEPTH = 7.0
POINTS = 25

_BLOCK = 256  # rows at a time: their logits stay in the processor's cache


def prepare(data_dir: Path | None, cache: Path, vocab: int = SETTINGS["vocab"]) -> Prepared:
    """The sentences over ``vocab`` words, kept in ``cache``; ``data_dir`` is not used.

    About a minute the first time, nearly all of it for the exact NLL. ``UserError`` for a ``vocab`` that will not do.
    """
    if type(vocab) is not int or not 2 <= vocab <= LARGEST:
        raise UserError(f"synthetic: 'vocab' must be a whole number from 2 to {LARGEST:,}, not {vocab!r}")

    def build() -> tuple[dict, Mapping[str, np.ndarray]]:
        arrays, information = generate(Generator(vocab))
        fields = {
            "name": "synthetic" if vocab == SETTINGS["vocab"] else f"synthetic-vocab={vocab}",
            "title": f"synthetic ({vocab:,} words)",
            "source": f"generated with seed {SEED} after He et al. (2019), §5.1",
            "protocol": "synthetic",
            "notes": (
                f"Under the generator itself the test sentences have {arrays['test_nll'].mean():.2f} nats each, the "
                f"NLL that no model can beat on average; its latent variable tells {information:.2f} nats of them.",
            ),
        }
        return _text.fields(arrays) | fields, arrays

    return cached(cache, f"synthetic-{vocab}-{SEED}-r{RECIPE}", build)


def generate(generator: Generator) -> tuple[dict[str, np.ndarray], float]:
    """The arrays of ``Prepared``, and the generator's mutual information I(x; z) in nats, estimated on test."""
    samples = {split: generator.sample(size, stream) for stream, (split, size) in enumerate(SIZES.items(), 1)}
    words = np.array([f"w{index}" for index in range(generator.vocab)])
    sentences = {split: words[tokens].tolist() for split, (tokens, _) in samples.items()}
    arrays = _text.arrays(sentences, words=words.tolist())
    tokens, z = samples["test"]
    log_marginal = generator.log_marginal(tokens)
    # Rounded, so that the last bits of matrix products, which differ between machines, do not matter.
    arrays["test_nll"] = np.round(-log_marginal, 3)
    return arrays, float((generator.log_prob(tokens, z[:, None])[:, 0] - log_marginal).mean())


class Generator:
    """The law of the sentences: tokens are numbers of words, 0 … ``vocab`` - 1, and sentences int64 ``[N, 10]``.

    Everything is float64: the LSTM amplifies rounding, and with float32 some sampled words would depend on the machine.
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
        biases = uniform(2, 4 * self.units).sum(axis=0)  # an LSTM's usual two, of inputs and of states
        self.initial = uniform(self.latent, self.units)
        self.output = np.vstack([uniform(self.units, vocab), uniform(self.latent, vocab, bound=5.0)])  # W1 over W2
        # Gates in the order input, forget, candidate, output. All but the candidate are sigmoids, and
        # sigmoid(a) = (1 + tanh(a / 2)) / 2, so that one tanh serves all four.
        halves = np.repeat([0.5, 0.5, 1.0, 0.5], self.units)
        self.embedded = (embeddings @ inputs[: self.embedding] + biases) * halves
        self.recurrent = np.vstack([hidden, inputs[self.embedding :]]) * halves

    def _random(self, stream: int) -> np.random.Generator:
        """Counter-based, and only its uniform numbers are used: the same on every machine."""
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, stream], dtype=np.uint64)))

    def sample(self, count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Sentences int64 ``[count, 10]`` and the z they came from, float64 ``[count, 2]``; ``stream`` is 1 or more."""
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
        """log p(x|z) of sentences ``[N, 10]`` at z ``[N, S, 2]``: float64 ``[N, S]``."""
        count, samples, _ = z.shape
        return self._log_prob(np.repeat(tokens, samples, axis=0), z.reshape(-1, self.latent)).reshape(count, samples)

    def prior_log_prob(self, z: np.ndarray) -> np.ndarray:
        """log p(z) of z ``[…, 2]``: float64 ``[…]``. The mixture is a product of one of two Gaussians by dimension."""
        each = np.logaddexp(-((z - 2) ** 2) / 2, -((z + 2) ** 2) / 2) - np.log(2) - np.log(2 * np.pi) / 2
        return each.sum(axis=-1)

    def log_marginal(self, tokens: np.ndarray) -> np.ndarray:
        """log p(x) of sentences ``[N, 10]``: float64 ``[N]``, with an rms error of 0.003 nats; 0.001 of the mean.

        The sum of p(x, z) over a square lattice of z, which is the trapezoidal rule. The posteriors are rugged and
        0.1 to 0.7 wide: from where W2 alone says that z could be, the lattice spreads over all that is within
        ``DEPTH`` nats of the highest point, and is halved until the posterior covers ``POINTS`` points.
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
            covered = total**2 / (weights**2).sum(axis=(1, 2))  # as many points as if all weighed the same
            narrow = covered < POINTS
            if not narrow.any():
                return result
            left, values, (spacing, axis) = left[narrow], _halved(values[narrow]), _halved_axis(axis)
            frontier = _neighbourhood(_high(values)) & np.isneginf(values)

    def _promising(self, tokens: np.ndarray, axis: np.ndarray) -> np.ndarray:
        """Where on the lattice to begin: bool ``[N, G, G]``.

        By W2 z without the LSTM; its log-likelihood counts half, since the LSTM has nearly as much to say.
        """
        z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, self.latent)
        logits = z @ self.output[self.units :]
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        likelihood = log_probs.T[tokens[:, 1:]].sum(axis=1)  # [N, G²]
        guess = (likelihood / 2 + self.prior_log_prob(z)).reshape(len(tokens), len(axis), len(axis))
        return guess > guess.max(axis=(1, 2), keepdims=True) - 4

    def _log_prob(self, tokens: np.ndarray, z: np.ndarray) -> np.ndarray:
        """log p(x|z) of each row: sentences ``[R, 10]``, z ``[R, 2]``; float64 ``[R]``."""
        result = np.full(len(z), -np.log(self.vocab))
        for start in range(0, len(z), _BLOCK):
            rows = slice(start, start + _BLOCK)
            read, (state, cell) = tokens[rows], self._start(z[rows])
            for t in range(1, WORDS):
                cell = self._step(read[:, t - 1], state, cell)
                logits = state @ self.output
                result[rows] += logits[np.arange(len(logits)), read[:, t]]
                # At most 100 + 5 (|z1| + |z2|), far from overflowing: no maximum is taken off first.
                result[rows] -= np.log(np.exp(logits, out=logits).sum(axis=1))
        return result

    def _start(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The state [h0; z] ``[R, 102]`` and the cell c0 ``[R, 100]``."""
        cell = z @ self.initial
        return np.hstack([np.tanh(cell), z]), cell

    def _step(self, tokens: np.ndarray, state: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Read a token: ``state`` is changed in place, the new cell returned."""
        gates = state @ self.recurrent
        gates += self.embedded[tokens]
        enter, forget, candidate, output = np.split(np.tanh(gates, out=gates), 4, axis=1)
        cell = ((1 + forget) * cell + (1 + enter) * candidate) / 2
        state[:, : self.units] = (1 + output) / 2 * np.tanh(cell)
        return cell


def _high(values: np.ndarray) -> np.ndarray:
    """The lattice points of each sentence that are within ``DEPTH`` of its highest."""
    return values > values.max(axis=(1, 2), keepdims=True) - DEPTH


def _neighbourhood(points: np.ndarray) -> np.ndarray:
    """The points and the four around each: bool ``[N, G, G]``."""
    wider = points.copy()
    wider[:, 1:] |= points[:, :-1]
    wider[:, :-1] |= points[:, 1:]
    wider[:, :, 1:] |= points[:, :, :-1]
    wider[:, :, :-1] |= points[:, :, 1:]
    return wider


def _halved(values: np.ndarray) -> np.ndarray:
    """Values ``[N, G, G]`` on the lattice of half the spacing, ``[N, 2G - 1, 2G - 1]``; -inf between."""
    side = 2 * values.shape[1] - 1
    finer = np.full((len(values), side, side), -np.inf)
    finer[:, ::2, ::2] = values
    return finer


def _halved_axis(axis: np.ndarray) -> tuple[float, np.ndarray]:
    """The spacing and points of an axis with half the spacing."""
    spacing = (axis[1] - axis[0]) / 2
    return spacing, spacing * np.arange(-len(axis) + 1, len(axis))
