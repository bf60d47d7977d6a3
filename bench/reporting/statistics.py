"""Statistics over seeds and test examples: means with standard deviation and 95 % interval, differences, shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Seeds below which nothing is recommended, bold or decided: with two, an interval says next to nothing.
MIN_SEEDS = 3
#: Nats below which training leaves differences of NLL open, as the tolerance of convergence.
MARGIN = 0.5
NAN = float("nan")
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation over seeds (ddof 1), number of seeds, and 95 % interval of the mean.

    ``sd``, ``low`` and ``high`` are NaN below two values, ``mean`` below one. Units are those of the values.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float


def summary(values: Iterable[float]) -> Summary:
    """Summarise values, ignoring NaN, with Student's t interval: mean ± t_{n-1}(0.975) sd / sqrt(n)."""
    values = [float(value) for value in values if not math.isnan(value)]
    n = len(values)
    if n == 0:
        return Summary(NAN, NAN, 0, NAN, NAN)
    mean = 1024 * (math.fsum(value / 1024 for value in values) / n)  # without overflow of the sum
    if n == 1:
        return Summary(mean, NAN, 1, NAN, NAN)
    sd = math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1)  # without overflow of the squares
    half = student_t(0.975, n - 1) * sd / math.sqrt(n)
    return Summary(mean, sd, n, mean - half, mean + half)


def welch(a: Iterable[float], b: Iterable[float]) -> Summary:
    """Summarise the difference of the means of two independent samples, b − a, with Welch's t interval.

    ``n`` is the size of the smaller sample, ``sd`` NaN. NaN is ignored; there is no interval below two values each.
    """
    one, other = summary(a), summary(b)
    mean, n = other.mean - one.mean, min(one.n, other.n)
    if n < 2:
        return Summary(mean, NAN, n, NAN, NAN)
    variances = [sample.sd**2 / sample.n for sample in (one, other)]
    spread = sum(v**2 / (sample.n - 1) for v, sample in zip(variances, (one, other), strict=True))
    degrees = sum(variances) ** 2 / spread if spread else math.inf
    half = student_t(0.975, degrees) * math.sqrt(sum(variances))
    return Summary(mean, NAN, n, mean - half, mean + half)


def crossed(values: ArrayLike, known: int | None = None) -> Summary:
    """Summarise values of S seeds evaluated on the same N examples, with seeds and examples both as random samples.

    Two-way random-effects model without replication: value = mean + seed + example + residual. The variance of the
    mean is V_seeds + V_examples with

        V_seeds    = MS_seeds / SN                             (that of the t interval over seeds)
        V_examples = max(0, MS_examples - MS_residual) / SN.

    The half width is the mean of two approximations:

    - Howe (1974, JASA 69, 789–794), sqrt(t²_{S-1} V_seeds + t²_{N-1} V_examples): coverage 96.6 % at five seeds if
      both variances matter;
    - Satterthwaite's degrees of freedom: 94.2 % at five seeds, 87 % at two, because a small MS_seeds is given too
      many degrees of freedom.

    Their mean covers 94.9–95.8 % at five seeds. If only seeds or only examples vary, it is the t interval. Use the
    same function for paired differences of two methods.

    Args:
        values: ``(S, N)``.
        known: number of examples that were measured, if the others are inferred from them (default: all N).
    """
    import numpy as np

    values = np.asarray(values, np.float64)  # (S, N)
    seeds, examples = values.shape
    rows, columns = values.mean(1), values.mean(0)
    over_seeds = summary(rows)
    if seeds < 2 or examples < 2:
        return over_seeds
    ms_seeds = examples * over_seeds.sd * over_seeds.sd
    ms_examples = seeds * float(columns.var(ddof=1))
    residual = values - rows[:, None] - columns + over_seeds.mean
    ms_residual = float((residual**2).sum()) / ((seeds - 1) * (examples - 1))
    v_seeds, v_examples = ms_seeds / values.size, max(0.0, ms_examples - ms_residual) / values.size
    known = max(2, examples if known is None else known)
    howe = math.hypot(
        student_t(0.975, seeds - 1) * math.sqrt(v_seeds), student_t(0.975, known - 1) * math.sqrt(v_examples)
    )
    variance = v_seeds + v_examples
    spread = ms_seeds**2 / (seeds - 1) + ms_examples**2 / (known - 1)
    spread += ms_residual**2 / ((seeds - 1) * (examples - 1))
    degrees = max(seeds - 1.0, (variance * values.size) ** 2 / spread) if spread else math.inf
    satterthwaite = student_t(0.975, degrees) * math.sqrt(variance)
    half = (howe + satterthwaite) / 2
    return Summary(over_seeds.mean, over_seeds.sd, seeds, over_seeds.mean - half, over_seeds.mean + half)


def wilson(count: float, n: int) -> tuple[float, float]:
    """Return Wilson's (1927) 95 % score interval of the share ``count / n``; NaN for n = 0."""
    if not n:
        return NAN, NAN
    share, square = count / n, Z * Z / n
    centre, half = share + square / 2, Z * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def same_share(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether Fisher's exact test does not tell two shares (count, n) apart at the level of 5 %."""
    from scipy.stats import fisher_exact

    table = [[count, n - count] for count, n in (one, other)]
    return bool(fisher_exact(table).pvalue >= 0.05)


def student_t(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
