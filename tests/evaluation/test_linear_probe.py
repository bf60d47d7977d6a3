"""The linear probe on cases whose answer is known."""

import time

import numpy as np
import pytest
import torch

from bench.evaluation.estimators import linear_probe as representation
from bench.evaluation.estimators.linear_probe import chance_accuracy, few_label_accuracy, linear_probe


def blobs(count: int, classes: int, apart: float, seed: int = 0, dim: int = 8):
    """Means and labels for training and test: Gaussian blobs of unit variance, their centres ``apart`` long."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dim))
    centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
    found = []
    for _ in range(2):
        labels = random.integers(classes, size=count)
        found += [(centres[labels] + random.normal(size=(count, dim))).astype(np.float32), labels]
    return found


def test_what_lies_apart_is_told_apart():
    data = blobs(500, 5, apart=30)
    assert linear_probe(*data) == 1.0
    assert few_label_accuracy(*data, counts=(100,), draws=2) == {100: 1.0}


def test_noise_gives_chance():
    _, labels, _, truth = blobs(2000, 4, apart=0)
    means = np.random.default_rng(1).normal(size=(2, 2000, 8))
    found = linear_probe(means[0], labels, means[1], truth)
    assert found == pytest.approx(0.25, abs=0.04)
    assert chance_accuracy(labels, truth) == pytest.approx(0.25, abs=0.02)


def test_a_collapsed_code_names_the_commonest_class():
    labels, truth = np.repeat([3, 7], [60, 40]), np.repeat([3, 7], [70, 30])
    assert linear_probe(np.zeros((100, 4)), labels, np.zeros((100, 4)), truth) == chance_accuracy(labels, truth) == 0.7


def test_two_blobs_are_told_apart_as_well_as_can_be():
    """Centres ±1.5 in one of eight dimensions: Bayes' accuracy is Φ(1.5) = 0.933."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=(2, 5000))
    means = random.normal(size=(2, 5000, 8))
    means[..., 0] += 3 * labels - 1.5
    assert linear_probe(means[0], labels[0], means[1], labels[1]) == pytest.approx(0.933, abs=0.01)
    few = few_label_accuracy(means[0], labels[0], means[1], labels[1])
    assert 0.85 < few[100] <= few[500] + 0.01 <= few[1000] + 0.02 < 0.97


def test_the_probe_depends_neither_on_the_units_of_a_dimension_nor_on_what_the_classes_are_called():
    means, labels, test, truth = blobs(400, 6, apart=2)
    found = linear_probe(means, labels, test, truth)
    few = few_label_accuracy(means, labels, test, truth, counts=(100,), draws=2)
    assert 0.3 < found < 0.9
    scale, shift = 2.0 ** np.arange(-4, 4), np.arange(8) - 4.0
    assert linear_probe(scale * means + shift, labels, scale * test + shift, truth) == pytest.approx(found, abs=0.011)
    name = np.array([40, 3, -5, 17, 0, 8])
    assert linear_probe(means, name[labels], test, name[truth]) == found
    assert few_label_accuracy(means, name[labels], test, name[truth], counts=(100,), draws=2) == few


def test_the_probe_is_the_same_every_time():
    data = blobs(300, 4, apart=1)
    assert linear_probe(*data) == linear_probe(*data)
    assert few_label_accuracy(*data, counts=(100,), draws=2) == few_label_accuracy(*data, counts=(100,), draws=2)


def test_test_examples_of_classes_never_seen_are_left_out():
    means, labels, test, truth = blobs(400, 5, apart=30)
    kept = labels != 2
    assert linear_probe(means[kept], labels[kept], test, truth) == 1.0
    assert chance_accuracy(labels[kept], truth) == np.bincount(truth[truth != 2]).max() / (truth != 2).sum()
    with pytest.raises(ValueError, match="no class"):
        linear_probe(means, labels, test, truth + 5)


def test_classes_of_one_example_and_more_classes_than_labels_will_do():
    means, labels, test, truth = blobs(600, 60, apart=30, dim=32)
    first = np.unique(labels, return_index=True)[1]
    assert linear_probe(means[first], labels[first], test, truth) > 0.99
    assert few_label_accuracy(means, labels, test, truth, counts=(30,), draws=1)[30] == pytest.approx(0.5, abs=0.1)


def test_few_labels_are_balanced_and_of_different_draws():
    labels = np.repeat(np.arange(4), [500, 300, 100, 7])
    order, other = (representation._balanced(labels, np.random.default_rng(seed)) for seed in (0, 1))
    assert sorted(order) == list(range(len(labels))) and not np.array_equal(order, other)
    assert np.bincount(labels[order[:20]]).tolist() == [5, 5, 5, 5]
    assert sorted(np.bincount(labels[order[:100]])) == [7, 31, 31, 31]
    assert np.ptp(np.bincount(labels[order[:14]])) == 1


def test_counts_beyond_the_training_set_are_missing():
    assert list(few_label_accuracy(*blobs(120, 3, apart=3), counts=(100, 500), draws=1)) == [100]


def test_cross_validation_finds_a_good_strength(monkeypatch):
    """Of 100 examples in 20 dimensions, five times: not far from the best strength, and better than the weakest."""
    accuracies = {}
    for strengths in (representation.STRENGTHS, *((strength,) for strength in representation.STRENGTHS)):
        monkeypatch.setattr(representation, "STRENGTHS", strengths)
        runs = []
        for seed in range(5):
            means, labels, test, truth = blobs(2000, 3, apart=2.5, seed=seed, dim=20)
            runs.append(linear_probe(means[:100], labels[:100], test, truth))
        accuracies[strengths] = np.mean(runs)
    chosen, *each = accuracies.values()
    assert max(each) - 0.015 < chosen and min(each) < chosen - 0.01


def test_the_fit_is_at_its_minimum():
    means, labels, *_ = blobs(200, 3, apart=1)
    x, y = torch.from_numpy(means).double(), torch.from_numpy(labels)
    weights = representation._fit(x, y, 0.01, x.new_zeros(9, 3))

    def loss(weights: torch.Tensor) -> torch.Tensor:
        log_probability = torch.log_softmax(x @ weights[:-1] + weights[-1], dim=1)
        return -log_probability[torch.arange(200), y].mean() + 0.005 * weights[:-1].square().sum()

    (gradient,) = torch.autograd.grad(loss(weights.requires_grad_()), [weights])
    assert gradient.abs().max() < 1e-4
    assert all(loss(weights + 0.01 * step) > loss(weights) for step in torch.randn(20, 9, 3))


def test_two_thousand_codes_of_fifty_classes_take_seconds():
    data = blobs(2000, 50, apart=4, dim=32)
    started = time.process_time()
    linear_probe(*data)
    assert time.process_time() - started < 30, "about 1 s on a machine of 2023"
