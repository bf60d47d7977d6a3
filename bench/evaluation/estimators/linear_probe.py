"""Accuracy of a linear classifier on posterior means: how much of the labels is linear in the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

#: Weights of ½‖W‖² relative to the mean cross-entropy; cross-validation selects one, the largest among equals.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3)
FOLDS = 5

Score = Callable[[Tensor, Tensor], Tensor]  # logits (N, C) and classes (N,) -> a number, higher is better


def linear_probe(
    train_means: np.ndarray, train_labels: np.ndarray, test_means: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return the test accuracy of multinomial logistic regression on standardised posterior means ``[N, D]``.

    Labels are integers ``[N]`` in any order. The L2 strength is the one of highest accuracy in stratified
    cross-validation over fixed parts of the training set: with few labels it comes closer to the best strength than
    the one of lowest cross-entropy. Test examples of classes without training examples are left out. ``ValueError`` if
    no test example remains.
    """
    labels, known, truth = _encode_labels(train_labels, test_labels)
    return _accuracy(train_means, labels, test_means[known], truth)


def few_label_accuracy(
    train_means: np.ndarray,
    train_labels: np.ndarray,
    test_means: np.ndarray,
    test_labels: np.ndarray,
    counts: Sequence[int] = (100, 500, 1000),
    draws: int = 5,
    seed: int = 0,
) -> dict[int, float]:
    """Return the accuracy of ``linear_probe`` with few labels: for each count the mean over ``draws`` balanced subsets.

    The classes of a subset differ in size by at most one, as far as there are enough examples, and the smaller subsets
    of a draw are part of its larger ones. Counts above the size of the training set are omitted. The test examples are
    those of the probe on the whole training set; with more classes than labels, some of them cannot be classified
    correctly. A balanced subset does not show which class is most frequent, so the chance level is one over the number
    of classes.
    """
    labels, known, truth = _encode_labels(train_labels, test_labels)
    orders = [_balanced(labels, np.random.default_rng((seed, draw))) for draw in range(draws)]
    accuracies = {}
    for count in (count for count in counts if count <= len(labels)):
        subsets = [order[:count] for order in orders]
        correct = [_accuracy(train_means[few], labels[few], test_means[known], truth) for few in subsets]
        accuracies[count] = sum(correct) / draws
    return accuracies


def certificate_margin(
    train_means: np.ndarray, train_labels: np.ndarray, test_means: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return the nats by which a linear probe of the means ``[N, D]`` predicts test labels better than any constant.

    The certificate against constant collapse of arXiv 2605.05813 with the labels as teacher: the best constant
    prediction costs I(x; label), which is the entropy of the labels of these examples, so a prediction from the means
    that costs less proves that the means depend on x. The margin is at most that entropy.
    """
    labels, known, truth = _encode_labels(train_labels, test_labels)
    features, target, held_out = _standardised(train_means, labels, test_means[known])
    weights = _selected_weights(features, target, _log_likelihood)
    cost = cross_entropy(_logits(held_out, weights), torch.from_numpy(np.searchsorted(np.unique(labels), truth)))
    shares = np.unique(truth, return_counts=True)[1] / len(truth)
    return float(-(shares * np.log(shares)).sum() - cost.item())


def chance_accuracy(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the share of the most frequent class among the test labels that the probe is tested on."""
    _, _, truth = _encode_labels(train_labels, test_labels)
    return float(np.bincount(truth).max() / len(truth))


def _encode_labels(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the training labels numbered by first appearance, a mask of the test examples of known classes, and the
    labels of these."""
    labels, classes = pd.factorize(train)
    truth = pd.Index(classes).get_indexer(test)  # -1 for a class that is not in the training set
    known = truth >= 0
    if not known.any():
        raise ValueError("no class of the test set is in the training set")
    return labels, known, truth[known]


def _balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return all examples in random order, but first one of each class, then a second one of each, and so on."""
    order = random.permutation(len(labels))
    rank = pd.Series(order).groupby(labels[order]).cumcount()  # how many examples of the same class precede
    return order[np.argsort(rank.to_numpy(), kind="stable")]


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit torch to one thread: the products are many and too small to parallelise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _accuracy(means: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Return the test accuracy of a probe trained on ``means``."""
    features, target, held_out = _standardised(means, labels, test)
    predicted = np.unique(labels)[
        _logits(held_out, _selected_weights(features, target, _num_correct)).argmax(dim=1).numpy()
    ]
    return float((predicted == truth).mean())


def _standardised(means: np.ndarray, labels: np.ndarray, test: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return the features of training examples, their classes as 0, 1, …, and the features of test examples."""
    centre, scale = means.mean(axis=0, dtype=np.float64), means.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    target = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    return torch.from_numpy((means - centre) / scale), target, torch.from_numpy((test - centre) / scale)


@single_thread()
def _selected_weights(features: Tensor, target: Tensor, score: Score) -> Tensor:
    """Return weights and biases ``[D + 1, C]`` with the strength of the highest score in cross-validation."""
    order = np.random.default_rng(0).permutation(len(target))
    order = torch.from_numpy(order[target.numpy()[order].argsort(kind="stable")])
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % FOLDS  # every class is spread over all folds
    scores = torch.stack([_scores(features, target, fold == held_out, score) for held_out in range(FOLDS)]).sum(dim=0)
    return _regularisation_path(features, target, int(target.max()) + 1)[int(scores.argmax())]


def _scores(features: Tensor, labels: Tensor, held_out: Tensor, score: Score) -> Tensor:
    """Return the score of a probe on the held-out examples of the classes that it was trained on, by strength."""
    classes, target = labels[~held_out].unique(return_inverse=True)
    path = _regularisation_path(features[~held_out], target, len(classes))
    test = held_out & torch.isin(labels, classes)
    truth = torch.searchsorted(classes, labels[test])
    return torch.stack([score(_logits(features[test], weights), truth) for weights in path])


def _num_correct(logits: Tensor, truth: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == truth).sum()


def _log_likelihood(logits: Tensor, truth: Tensor) -> Tensor:
    return -cross_entropy(logits, truth, reduction="sum")


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    return torch.addmm(weights[-1], features, weights[:-1])


def _regularisation_path(features: Tensor, target: Tensor, classes: int) -> list[Tensor]:
    """Return weights and biases ``[D + 1, C]`` for each of ``STRENGTHS``; each fit starts from the previous one."""
    weights, path = features.new_zeros(features.shape[1] + 1, classes), []
    for strength in STRENGTHS:
        weights = _fit(features, target, strength, weights)
        path.append(weights)
    return path


def _fit(features: Tensor, target: Tensor, strength: float, start: Tensor) -> Tensor:
    """Minimise mean cross-entropy + ½ strength ‖W‖² by L-BFGS, without a penalty on the biases."""
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(_logits(features, weights), target) + 0.5 * strength * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    return weights.detach()
