import numpy as np
import pytest
import torch

from bench.evaluation.estimators import linear_probe as module
from bench.evaluation.estimators.linear_probe import (
    certificate_margin,
    chance_accuracy,
    few_label_accuracy,
    linear_probe,
)


def blobs(count: int, classes: int, distance: float, seed: int = 0, dim: int = 8):
    """Return train means and labels, test means and labels: unit Gaussians at ``distance`` from the origin."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dim))
    centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
    sets = []
    for _ in range(2):
        labels = random.integers(classes, size=count)
        sets += [(centres[labels] + random.normal(size=(count, dim))).astype(np.float32), labels]
    return sets


def test_separate_classes_are_classified_perfectly():
    data = blobs(500, 5, distance=30)
    assert linear_probe(*data) == 1.0 and few_label_accuracy(*data, counts=(100,), draws=2) == {100: 1.0}


def test_noise_gives_chance_accuracy():
    _, labels, _, test_labels = blobs(2000, 4, distance=0)
    means = np.random.default_rng(1).normal(size=(2, 2000, 8))
    assert linear_probe(means[0], labels, means[1], test_labels) == pytest.approx(0.25, abs=0.04)
    assert chance_accuracy(labels, test_labels) == pytest.approx(0.25, abs=0.02)


def test_two_blobs_reach_bayes_accuracy():
    """Centres ±1.5 in one of eight dimensions: Φ(1.5) = 0.933."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=(2, 5000))
    means = random.normal(size=(2, 5000, 8))
    means[..., 0] += 3 * labels - 1.5
    assert linear_probe(means[0], labels[0], means[1], labels[1]) == pytest.approx(0.933, abs=0.01)
    few = few_label_accuracy(means[0], labels[0], means[1], labels[1])
    assert 0.85 < few[100] <= few[500] + 0.01 <= few[1000] + 0.02 < 0.97


def test_probe_is_invariant_to_units_and_class_names():
    means, labels, test, test_labels = blobs(400, 6, distance=2)
    accuracy = linear_probe(means, labels, test, test_labels)
    assert 0.3 < accuracy < 0.9 and accuracy == linear_probe(means, labels, test, test_labels)
    scale, shift = 2.0 ** np.arange(-4, 4), np.arange(8) - 4.0
    rescaled = linear_probe(scale * means + shift, labels, scale * test + shift, test_labels)
    assert rescaled == pytest.approx(accuracy, abs=0.011)
    names = np.array([40, 3, -5, 17, 0, 8])
    assert linear_probe(means, names[labels], test, names[test_labels]) == accuracy


def test_certificate_is_the_information_of_a_gaussian_channel():
    """Centres ±1.5: I(label; mean) = ln 2 - E[softplus(-3 (1.5 + noise))]; constant means have none."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=(2, 5000))
    means = random.normal(size=(2, 5000, 4))
    assert certificate_margin(means[0], labels[0], means[1], labels[1]) < 0.005
    assert certificate_margin(np.ones((5000, 4)), labels[0], np.ones((5000, 4)), labels[1]) <= 0
    means[..., 0] += 3 * labels - 1.5
    noise = np.linspace(-8, 8, 4001)
    density = np.exp(-(noise**2) / 2) / np.sqrt(2 * np.pi)
    information = np.log(2) - np.trapezoid(density * np.log1p(np.exp(-3 * (1.5 + noise))), noise)
    margin = certificate_margin(means[0], labels[0], means[1], labels[1])
    assert margin == pytest.approx(information, abs=0.02)


def test_unseen_classes_are_left_out():
    means, labels, test, test_labels = blobs(400, 5, distance=30)
    seen = labels != 2
    assert linear_probe(means[seen], labels[seen], test, test_labels) == 1.0
    expected = np.bincount(test_labels[test_labels != 2]).max() / (test_labels != 2).sum()
    assert chance_accuracy(labels[seen], test_labels) == expected
    with pytest.raises(ValueError, match="no class"):
        linear_probe(means, labels, test, test_labels + 5)


def test_fit_is_at_its_minimum():
    means, labels, *_ = blobs(200, 3, distance=1)
    x, y = torch.from_numpy(means).double(), torch.from_numpy(labels)
    weights = module._fit(x, y, 0.01, x.new_zeros(9, 3)).requires_grad_()

    def loss(weights: torch.Tensor) -> torch.Tensor:
        cross_entropy = torch.nn.functional.cross_entropy(x @ weights[:-1] + weights[-1], y)
        return cross_entropy + 0.005 * weights[:-1].square().sum()

    (gradient,) = torch.autograd.grad(loss(weights), [weights])
    assert gradient.abs().max() < 1e-4
    assert all(loss(weights + 0.01 * step) > loss(weights) for step in torch.randn(20, 9, 3))
