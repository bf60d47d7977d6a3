"""The synthetic set: its generator, its exact marginal likelihood, and what is prepared from them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy.special import logsumexp

from bench.core.errors import UserError
from bench.data.dataset import fingerprint
from bench.data.datasets import synthetic

SMALL = {"train": 2_000, "val": 100, "test": 400}


@pytest.fixture(scope="module")
def generator():
    return synthetic.Generator(200)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """``synthetic(vocab=200)`` with fewer sentences, its arrays, and the folder where it is cached."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "SIZES", SMALL)
        prepared = synthetic.prepare(None, cache, vocab=200)
    with np.load(prepared.path) as file:
        return prepared, {name: file[name] for name in file.files}, cache


def importance_sampled(generator, tokens, z, samples, seed):
    """log p(x) of each sentence by importance sampling around the z it came from, which is a draw of p(z|x)."""
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


def test_log_prob_agrees_with_the_definition():
    """The LSTM step by step, from the same random numbers."""
    vocab, units = 7, 100
    generator = synthetic.Generator(vocab)
    random = generator._random(0)

    def uniform(*shape):
        return 2 * random.random(shape) - 1

    embeddings, inputs, hidden, biases = uniform(vocab, 100), uniform(102, 400), uniform(100, 400), uniform(2, 400)
    initial, w1, w2 = uniform(2, units), uniform(units, vocab), 5 * uniform(2, vocab)
    tokens, z = generator.sample(3, stream=1)
    for x, latent, found in zip(tokens, z, generator.log_prob(tokens, z[:, None]), strict=True):
        c = latent @ initial
        h, expected = np.tanh(c), -np.log(vocab)
        for before, word in zip(x[:-1], x[1:], strict=True):
            gates = np.concatenate([embeddings[before], latent]) @ inputs + h @ hidden + biases.sum(axis=0)
            i, f, o = (1 / (1 + np.exp(-gates[start : start + units])) for start in (0, units, 3 * units))
            c = f * c + i * np.tanh(gates[2 * units : 3 * units])
            h = o * np.tanh(c)
            logits = h @ w1 + latent @ w2
            expected += logits[word] - logsumexp(logits)
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_prior_is_four_gaussians():
    generator = synthetic.Generator(2)
    z = np.random.default_rng(0).normal(size=(5, 2)) * 3
    densities = [
        np.exp(-((z - (a, b)) ** 2).sum(axis=1) / 2) / (2 * np.pi) / 4 for a in (-2.0, 2.0) for b in (-2.0, 2.0)
    ]
    np.testing.assert_allclose(generator.prior_log_prob(z), np.log(sum(densities)))
    _, drawn = generator.sample(20_000, stream=1)
    assert np.abs(drawn.mean(axis=0)).max() < 4 * np.sqrt(5 / 20_000)
    assert (drawn**2).mean() == pytest.approx(5, abs=0.1)
    assert abs((drawn[:, 0] * drawn[:, 1]).mean()) < 4 * 5 / np.sqrt(20_000)


def test_two_words_make_a_distribution_over_all_sentences():
    """Over every sentence p(x) sums to 1, and samples come as often as it says."""
    generator = synthetic.Generator(2)
    everything = np.arange(2**10)[:, None] >> np.arange(10)[::-1] & 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "POINTS", 1)  # the coarsest lattice will do: two words tell little of z
        probabilities = np.exp(generator.log_marginal(everything))
    assert probabilities.sum() == pytest.approx(1, abs=0.01)
    tokens, _ = generator.sample(20_000, stream=1)
    counts = np.bincount(tokens @ (1 << np.arange(10)[::-1]), minlength=2**10)
    likely = probabilities > 5 / 20_000
    expected = 20_000 * probabilities[likely]
    chi_square = ((counts[likely] - expected) ** 2 / expected).sum()
    assert abs(chi_square - likely.sum()) < 5 * np.sqrt(2 * likely.sum())


def test_the_same_sentences_everywhere(generator):
    """The very words, so that a change of generator cannot go unnoticed."""
    tokens, _ = generator.sample(1_000, stream=1)
    assert tokens.min() == 0 and tokens.max() == 199
    digest = hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "5f2846e2a5a2ded7"
    again, _ = synthetic.Generator(200).sample(1_000, stream=1)
    np.testing.assert_array_equal(tokens, again)
    assert (generator.sample(1_000, stream=2)[0] != tokens).any()


# ---- the marginal


def test_the_marginal_agrees_with_a_fine_grid(generator):
    tokens, _ = generator.sample(4, stream=5)
    axis = np.arange(-6.65, 6.66, 0.07)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(1, -1, 2)
    joint = [generator.log_prob(x[None], z) + generator.prior_log_prob(z) for x in tokens]
    exact = logsumexp(np.concatenate(joint), axis=1) + 2 * np.log(0.07)
    np.testing.assert_allclose(generator.log_marginal(tokens), exact, rtol=0, atol=0.02)


def test_the_marginal_agrees_with_importance_sampling(generator):
    tokens, z = generator.sample(100, stream=6)
    estimate = importance_sampled(generator, tokens, z, samples=500, seed=0)
    ratio = np.exp(estimate - generator.log_marginal(tokens))  # its mean is 1, that of the logarithm below 0
    error = ratio.std(ddof=1) / np.sqrt(len(ratio))
    assert error < 0.03 and abs(ratio.mean() - 1) < 3 * error


# ---- the prepared set


def test_what_is_prepared(small):
    prepared, arrays, _ = small
    info = prepared.info
    assert (info.name, info.title) == ("synthetic-vocab=200", "synthetic (200 words)")
    assert (info.modality, info.unit, info.protocol) == ("text", "nats per sentence", "synthetic")
    assert (info.shape, info.vocabulary, info.sizes) == ((12,), 204, SMALL)
    assert info.fingerprint == fingerprint(arrays)
    for split, size in SMALL.items():
        assert arrays[split].dtype == np.int32 and arrays[split].shape == (size, 12)
        assert (arrays[split][:, 0] == 1).all() and (arrays[split][:, -1] == 2).all()
        assert arrays[split][:, 1:-1].min() >= 4
    assert arrays["vocabulary"][:4].tolist() == ["<pad>", "<s>", "</s>", "<unk>"]
    assert sorted(arrays["vocabulary"][4:]) == sorted(f"w{index}" for index in range(200))
    counts = np.bincount(arrays["train"].ravel(), minlength=204)[4:]
    assert (np.diff(counts) <= 0).all()


def test_the_entropy_floor(small, generator):
    """The stored NLL of the test sentences meets an independent estimate of the entropy from fresh ones."""
    _, arrays, _ = small
    stored = arrays["test_nll"]
    assert stored.dtype == np.float64 and stored.shape == (SMALL["test"],)
    tokens, z = generator.sample(400, stream=9)
    fresh = -importance_sampled(generator, tokens, z, samples=200, seed=1)
    error = np.sqrt(stored.var(ddof=1) / len(stored) + fresh.var(ddof=1) / len(fresh))
    assert abs(stored.mean() - fresh.mean()) < 3 * error
    # It is of these very sentences, in their order.
    words = np.array([int(word[1:]) for word in arrays["vocabulary"][4:]])
    np.testing.assert_allclose(stored[:20], -generator.log_marginal(words[arrays["test"][:20, 1:-1] - 4]), atol=6e-4)


def test_the_note_tells_the_floor_and_the_information(small, generator):
    prepared, arrays, _ = small
    (note,) = prepared.info.notes
    tokens, z = generator.sample(SMALL["test"], stream=3)
    information = (generator.log_prob(tokens, z[:, None])[:, 0] + arrays["test_nll"]).mean()
    assert f"{arrays['test_nll'].mean():.2f} nats" in note and f"{information:.2f} nats" in note


def test_a_second_preparation_generates_nothing(small, monkeypatch):
    prepared, _, cache = small
    monkeypatch.setattr(synthetic, "generate", None)
    monkeypatch.setattr(synthetic, "Generator", None)
    assert synthetic.prepare(None, cache, vocab=200) == prepared


@pytest.mark.parametrize("vocab", [0, 1, 10_001, 2.5, "200", True, None])
def test_settings_that_will_not_do(vocab, tmp_path):
    with pytest.raises(UserError, match="'vocab' must be a whole number from 2 to 10,000") as error:
        synthetic.prepare(None, tmp_path, vocab=vocab)
    assert repr(vocab) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_the_whole_set(tmp_path):
    prepared = synthetic.prepare(None, tmp_path)
    assert (prepared.info.name, prepared.info.title) == ("synthetic", "synthetic (1,000 words)")
    assert (prepared.info.vocabulary, prepared.info.shape) == (1_004, (12,))
    assert prepared.info.sizes == {"train": 16_000, "val": 2_000, "test": 2_000}
    with np.load(prepared.path) as file:
        assert file["test_nll"].mean() == pytest.approx(30.26, abs=0.005)
    # The same on processors with and without AVX-512, with other BLAS kernels and other numbers of threads.
    assert prepared.info.fingerprint == "9304c505dad311fe0dd2c654676263e97b0f1b67467dc5d639e711062e9206f1"
