"""What a linear classifier reads from posterior means: how much of the labels the code makes plain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

#: Weights of ½‖W‖² against the mean cross-entropy, for cross-validation to choose from; on ties the strongest wins.
STRENGTHS = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
FOLDS = 5


def linear_probe(
    train_means: np.ndarray, train_labels: np.ndarray, test_means: np.ndarray, test_labels: np.ndarray
) -> float:
    """Accuracy on the test set of multinomial logistic regression on standardised posterior means ``[N, D]``.

    Labels are integers ``[N]``, whatever their order. The L2 strength is the one of least cross-entropy in stratified
    cross-validation over fixed parts of the training set. Test examples of classes without training examples are left
    out, for no classifier could name them.
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
    examples as the probe of the whole training set: with more classes than labels, some of them cannot be right.
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
    """Training labels numbered as they appear; which test examples (bool) are of their classes; and those's numbers."""
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


def _accuracy(means: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Of a probe trained on ``means`` with the strength that cross-validation finds best."""
    centre, scale = means.mean(axis=0, dtype=np.float64), means.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    features = (means - centre) / scale
    classes, target = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(target))
    fold = np.empty_like(order)
    fold[order[target[order].argsort(kind="stable")]] = np.arange(len(order)) % FOLDS  # each class over all folds
    losses = sum(_validation_losses(features, target, fold == held_out) for held_out in range(FOLDS))
    weights = _path(features, target, len(classes))[int(np.argmin(losses))]
    logits = (test - centre) / scale @ weights[:-1] + weights[-1]
    return float((classes[logits.argmax(axis=1)] == truth).mean())


def _validation_losses(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Cross-entropy summed over the held-out examples of classes that the others have, for each strength."""
    classes, target = np.unique(labels[~held_out], return_inverse=True)
    held_out_known = held_out & np.isin(labels, classes)
    truth = np.searchsorted(classes, labels[held_out_known])
    losses = []
    for weights in _path(features[~held_out], target, len(classes)):
        log_probability = _log_softmax(features[held_out_known] @ weights[:-1] + weights[-1])
        losses.append(-log_probability[np.arange(len(truth)), truth].sum())
    return np.array(losses)


def _path(features: np.ndarray, target: np.ndarray, classes: int) -> list[np.ndarray]:
    """Weights and biases ``[D + 1, C]`` for each of ``STRENGTHS``, each fit beginning where the last ended."""
    weights, path = np.zeros((features.shape[1] + 1, classes)), []
    for strength in STRENGTHS:
        weights = _fit(features, target, strength, weights)
        path.append(weights)
    return path


def _fit(features: np.ndarray, target: np.ndarray, strength: float, start: np.ndarray) -> np.ndarray:
    """Multinomial logistic regression by L-BFGS: the minimum of mean cross-entropy + ½ strength ‖W‖², biases free."""
    rows = np.arange(len(target))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        log_probability = _log_softmax(features @ weights[:-1] + weights[-1])
        loss = -log_probability[rows, target].mean() + 0.5 * strength * np.square(weights[:-1]).sum()
        error = np.exp(log_probability)
        error[rows, target] -= 1
        error /= len(rows)
        gradient = np.vstack([features.T @ error + strength * weights[:-1], error.sum(axis=0)])
        return loss, gradient.ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-5})
    return found.x.reshape(start.shape)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
