"""Statistics over seeds: means with their spread and interval, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAN = float("nan")


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (ddof 1), count, and the 95 % t interval of the mean.

    ``sd``, ``low`` and ``high`` are NaN below two values, ``mean`` below one. Units are those of the values.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float


def summary(values: Iterable[float]) -> Summary:
    """Summarise values, leaving out NaN."""
    values = [float(value) for value in values if not math.isnan(value)]
    n = len(values)
    if n == 0:
        return Summary(NAN, NAN, 0, NAN, NAN)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(mean, NAN, 1, NAN, NAN)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = student_t(0.975, n - 1) * sd / math.sqrt(n)
    return Summary(mean, sd, n, mean - half, mean + half)


def paired(values: Mapping[Any, float], reference: Mapping[Any, float]) -> Summary:
    """Summarise ``values - reference`` over the keys (repetitions) that both have.

    Repetitions share initial weights, batches and noise across methods, so the spread of the differences is
    what a comparison has to go by, not the two spreads.
    """
    return summary(values[key] - reference[key] for key in values if key in reference)


def student_t(probability: float, degrees: int) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
