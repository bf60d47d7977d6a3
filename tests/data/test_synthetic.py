"""The synthetic data set: its generator, exact marginal likelihood, and prepared arrays."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy.special import logsumexp

from bench.core.errors import UserError
from bench.data.dataset import fingerprint
from bench.data.datasets import synthetic

SIZES = {"train": 2_000, "val": 100, "test": 60}


@pytest.fixture(scope="module")
def generator():
    return synthetic.Generator(200)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """``synthetic(vocab=200)`` with fewer sentences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "SIZES", SIZES)
        return synthetic.prepare(None, tmp_path_factory.mktemp("cache"), vocab=200)


def importance_sampled(generator, tokens, z, samples, seed):
    """Estimate log p(x) of each sentence by importance sampling around the z of its generation."""
    random = np.random.default_rng(seed)
    width = 0.4
    near = z[:, None] + width * random.standard_normal((len(z), samples, 2))
    far = z[:, None] + 2 * random.standard_normal((len(z), samples, 2))
    draws = np.where(random.random((len(z), samples, 1)) < 0.7, near, far)
    squares = ((draws - z[:, None]) ** 2).sum(axis=-1)
    proposal = np.logaddexp(
        np.log(0.7 / (2 * np.pi * width**2)) - squares / (2 * width**2), np.log(0.3 / (8 * np.pi)) - squares / 8
    )
    joint = generator.log_prob(tokens, draws) + generator.prior_log_prob(draws)
    return logsumexp(joint - proposal, axis=1) - np.log(samples)


# ---- the generator


def test_log_prob_agrees_with_a_plain_lstm():
    vocab, units = 7, 100
    generator = synthetic.Generator(vocab)
    random = generator._random(0)

    def uniform(*shape):
        return 2 * random.random(shape) - 1

    embeddings, inputs, hidden, biases = uniform(vocab, 100), uniform(102, 400), uniform(100, 400), uniform(2, 400)
    initial, w1, w2 = uniform(2, units), uniform(units, vocab), 5 * uniform(2, vocab)
    tokens, z = generator.sample(3, stream=1)
    for x, latent, log_prob in zip(tokens, z, generator.log_prob(tokens, z[:, None]), strict=True):
        c = latent @ initial
        h, expected = np.tanh(c), -np.log(vocab)
        for previous, word in zip(x[:-1], x[1:], strict=True):
            gates = np.concatenate([embeddings[previous], latent]) @ inputs + h @ hidden + biases.sum(axis=0)
            i, f, o = (1 / (1 + np.exp(-gates[start : start + units])) for start in (0, units, 3 * units))
            c = f * c + i * np.tanh(gates[2 * units : 3 * units])
            h = o * np.tanh(c)
            logits = h @ w1 + latent @ w2
            expected += logits[word] - logsumexp(logits)
        assert log_prob == pytest.approx(expected, abs=1e-9)


def test_prior_is_a_mixture_of_four_gaussians():
    generator = synthetic.Generator(2)
    z = np.random.default_rng(0).normal(size=(5, 2)) * 3
    densities = [
        np.exp(-((z - (a, b)) ** 2).sum(axis=1) / 2) / (2 * np.pi) / 4 for a in (-2.0, 2.0) for b in (-2.0, 2.0)
    ]
    np.testing.assert_allclose(generator.prior_log_prob(z), np.log(sum(densities)))
    count = 4_000
    _, samples = generator.sample(count, stream=1)
    assert np.abs(samples.mean(axis=0)).max() < 4 * np.sqrt(5 / count)
    assert (samples**2).mean() == pytest.approx(5, abs=0.25)
    assert abs((samples[:, 0] * samples[:, 1]).mean()) < 4 * 5 / np.sqrt(count)


def test_sentences_never_change(generator):
    tokens, _ = generator.sample(1_000, stream=1)
    assert tokens.min() == 0 and tokens.max() == 199
    assert hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:16] == "5f2846e2a5a2ded7"
    assert (generator.sample(1_000, stream=2)[0] != tokens).any()


# ---- the marginal


def test_marginal_agrees_with_a_fine_grid(generator):
    tokens, z = generator.sample(1, stream=5)
    axis = np.arange(-2.1, 2.11, 0.07)
    grid = z[0] + np.stack(np.meshgrid(axis, axis), axis=-1).reshape(1, -1, 2)
    joint = generator.log_prob(tokens, grid) + generator.prior_log_prob(grid)
    exact = logsumexp(joint, axis=1) + 2 * np.log(0.07)
    np.testing.assert_allclose(generator.log_marginal(tokens), exact, rtol=0, atol=0.02)


@pytest.mark.slow
def test_entropy_agrees_with_monte_carlo(generator):
    """The stored NLLs agree with importance sampling on independent sentences."""
    tokens, _ = generator.sample(400, stream=3)
    exact = -generator.log_marginal(tokens)
    fresh_tokens, z = generator.sample(400, stream=9)
    fresh = -importance_sampled(generator, fresh_tokens, z, samples=200, seed=1)
    error = np.sqrt(exact.var(ddof=1) / len(exact) + fresh.var(ddof=1) / len(fresh))
    assert abs(exact.mean() - fresh.mean()) < 3 * error


# ---- the prepared set


def test_prepared_arrays(small, generator):
    info, arrays = small.info, small.arrays()
    assert (info.name, info.title) == ("synthetic-vocab=200", "synthetic (200 words)")
    assert (info.protocol, info.shape, info.vocabulary, info.sizes) == ("synthetic", (12,), 204, SIZES)
    assert info.fingerprint == fingerprint(arrays)
    for split, size in SIZES.items():
        assert arrays[split].dtype == np.int32 and arrays[split].shape == (size, 12)
        assert (arrays[split][:, 0] == 1).all() and (arrays[split][:, -1] == 2).all()
        assert arrays[split][:, 1:-1].min() >= 4
    assert sorted(arrays["vocabulary"][4:]) == sorted(f"w{index}" for index in range(200))
    counts = np.bincount(arrays["train"].ravel(), minlength=204)[4:]
    assert (np.diff(counts) <= 0).all()
    # The stored NLL of each test sentence, and the note on entropy and information.
    words = np.array([int(word[1:]) for word in arrays["vocabulary"][4:]])
    tokens, z = generator.sample(SIZES["test"], stream=3)
    assert np.array_equal(words[arrays["test"][:, 1:-1] - 4], tokens)
    np.testing.assert_allclose(arrays["test_nll"][:5], -generator.log_marginal(tokens[:5]), atol=6e-4)
    information = (generator.log_prob(tokens, z[:, None])[:, 0] + arrays["test_nll"]).mean()
    assert f"{arrays['test_nll'].mean():.2f} nats" in info.notes[0] and f"{information:.2f} of them" in info.notes[0]


def test_invalid_vocabulary_size(tmp_path, subtests):
    for vocab in [1, 10_001, 2.5, "200", True, None]:
        with subtests.test(vocab=vocab):
            with pytest.raises(UserError, match=r"'vocab' must be an integer from 2 to 10,000, not "):
                synthetic.prepare(None, tmp_path, vocab=vocab)


@pytest.mark.slow
def test_full_data_set_has_the_published_fingerprint(tmp_path):
    prepared = synthetic.prepare(None, tmp_path)
    assert (prepared.info.name, prepared.info.title) == ("synthetic", "synthetic (1,000 words)")
    assert (prepared.info.vocabulary, prepared.info.shape) == (1_004, (12,))
    assert prepared.arrays()["test_nll"].mean() == pytest.approx(30.26, abs=0.005)
    # The same with and without AVX-512, with other BLAS kernels and other numbers of threads.
    assert prepared.info.fingerprint == "9304c505dad311fe0dd2c654676263e97b0f1b67467dc5d639e711062e9206f1"
