"""Estimates for the whole test set from a subsample of its examples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Return at most ``count`` different positions in range(n), evenly spaced: ``[M]``."""
    return np.unique(np.linspace(0, n - 1, min(count, n)).round().astype(np.int64))


def median(values: np.ndarray) -> float:
    """Return the median without NaN; NaN if nothing remains."""
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else math.nan


class Mean(NamedTuple):
    mean: float
    standard_error: float  # over examples; NaN for one example


def regression_estimate(plain: np.ndarray, sampled: np.ndarray, values: np.ndarray) -> Mean:
    """Estimate the mean of another NLL over all N examples from ``values`` ``[M]`` at positions ``sampled`` ``[M]``.

    The estimate is the mean of the ``plain`` NLL ``[N]`` plus the mean difference on the sample. Both NLLs of an
    example are strongly correlated, so the difference has far less noise than the mean of the sample. If there is no
    plain NLL (a posterior without density), return the mean of the sample.
    """
    if np.isnan(plain).all():
        plain = np.full_like(plain, values.mean())
    difference = values - plain[sampled]
    mean = float(plain.mean() + difference.mean())
    if len(difference) < 2:
        return Mean(mean, math.nan)
    (variance, covariance), (_, variance_of_difference) = np.cov(plain[sampled], difference)
    variance = plain.var(ddof=1) if len(plain) > 1 else variance
    squared = (variance + 2 * covariance) / len(plain) + variance_of_difference / len(difference)
    return Mean(mean, math.sqrt(max(0.0, float(squared))))


def with_se(name: str, estimate: Mean) -> dict[str, float]:
    """Return the estimate as metrics ``name`` and ``name_se``."""
    return {name: estimate.mean, f"{name}_se": estimate.standard_error}


def scatter_to_full(values: np.ndarray, positions: np.ndarray, count: int) -> np.ndarray:
    """Return a column ``[count]`` with ``values`` at ``positions`` and NaN elsewhere."""
    column = np.full(count, math.nan)
    column[positions] = values
    return column
