"""What a linear classifier reads from posterior means: how much of the labels the code makes plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

#: Weights of ½‖W‖² against the mean cross-entropy, for cross-validation to choose from; on ties the strongest wins.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3)
FOLDS = 5


def linear_probe(
    train_means: np.ndarray, train_labels: np.ndarray, test_means: np.ndarray, test_labels: np.ndarray
) -> float:
    """Accuracy on the test set of multinomial logistic regression on standardised posterior means ``[N, D]``.

    Labels are integers ``[N]``, whatever their order. The L2 strength is the one of highest accuracy in stratified
    cross-validation over fixed parts of the training set: from few labels it comes closer to the best than that of
    least cross-entropy. Test examples of classes without training examples are left out, for no classifier could name
    them.
    """
    labels, known, truth = _coded(train_labels, test_labels)
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
    """``linear_probe`` from few labels: for each count the mean accuracy over ``draws`` subsets, balanced by class.

    Of each class as many as of any other, one more or less, and as far as there are so many; a draw's smaller subsets
    lie within its larger ones. Counts that the training set does not reach are missing. All are tested on the same
    examples as the probe of the whole training set: with more classes than labels, some of them cannot be right. As
    these subsets do not say which class is commonest, their chance level is one over the number of classes.
    """
    labels, known, truth = _coded(train_labels, test_labels)
    orders = [_balanced(labels, np.random.default_rng((seed, draw))) for draw in range(draws)]
    return {
        count: sum(
            _accuracy(train_means[few], labels[few], test_means[known], truth)
            for few in (order[:count] for order in orders)
        )
        / draws
        for count in counts
        if count <= len(labels)
    }


def chance_accuracy(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Share of the commonest class among the test labels that the probe is tested on: what guessing can reach."""
    _, _, truth = _coded(train_labels, test_labels)
    return float(np.bincount(truth).max() / len(truth))


def _coded(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training labels numbered as they appear; which test examples (bool) are of their classes; the labels of these."""
    classes, first, inverse = np.unique(train, return_index=True, return_inverse=True)
    number = first.argsort().argsort()
    known = np.isin(test, classes)
    if not known.any():
        raise ValueError("no class of the test set is in the training set")
    return number[inverse], known, number[np.searchsorted(classes, test[known])]


def _balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """All examples in random order, but first one of each class, then a second of each, and so on."""
    order = random.permutation(len(labels))
    return order[np.argsort(_rank(labels[order]), kind="stable")]


def _rank(labels: np.ndarray) -> np.ndarray:
    """How many of the same class came before: int64 ``[N]``."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return rank


@contextmanager
def one_thread() -> Iterator[None]:
    """Within: torch's products on one thread, for these are many and too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def _accuracy(means: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Of a probe trained on ``means`` with the strength that cross-validation finds best."""
    centre, scale = means.mean(axis=0, dtype=np.float64), means.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    features = torch.from_numpy((means - centre) / scale)
    classes, target = (torch.from_numpy(array) for array in np.unique(labels, return_inverse=True))
    order = np.random.default_rng(0).permutation(len(labels))
    order = torch.from_numpy(order[labels[order].argsort(kind="stable")])
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % FOLDS  # each class over all folds
    hits = torch.stack([_hits(features, target, fold == held_out) for held_out in range(FOLDS)]).sum(dim=0)
    weights = _path(features, target, len(classes))[int(hits.argmax())]
    found = classes[_predicted(torch.from_numpy((test - centre) / scale), weights)]
    return float((found.numpy() == truth).mean())


def _hits(features: Tensor, labels: Tensor, held_out: Tensor) -> Tensor:
    """How many of the held-out examples a probe trained on the others gets right, for each strength."""
    classes, target = labels[~held_out].unique(return_inverse=True)
    path = _path(features[~held_out], target, len(classes))
    found = torch.stack([classes[_predicted(features[held_out], weights)] for weights in path])
    return (found == labels[held_out]).sum(dim=1)


def _predicted(features: Tensor, weights: Tensor) -> Tensor:
    return torch.addmm(weights[-1], features, weights[:-1]).argmax(dim=1)


def _path(features: Tensor, target: Tensor, classes: int) -> list[Tensor]:
    """Weights and biases ``[D + 1, C]`` for each of ``STRENGTHS``, each fit beginning where the last ended."""
    weights, path = features.new_zeros(features.shape[1] + 1, classes), []
    for strength in STRENGTHS:
        weights = _fit(features, target, strength, weights)
        path.append(weights)
    return path


def _fit(features: Tensor, target: Tensor, strength: float, start: Tensor) -> Tensor:
    """Multinomial logistic regression by L-BFGS: the minimum of mean cross-entropy + ½ strength ‖W‖², biases free."""
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=500,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        logits = torch.addmm(weights[-1], features, weights[:-1])
        loss = torch.nn.functional.cross_entropy(logits, target) + 0.5 * strength * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    return weights.detach()
