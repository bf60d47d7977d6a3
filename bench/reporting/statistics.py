"""Statistics over seeds and test examples: means with their spread and interval, differences, shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NAN = float("nan")


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation over seeds (ddof 1), count of seeds, and the 95 % interval of the mean.

    ``sd``, ``low`` and ``high`` are NaN below two values, ``mean`` below one. Units are those of the values.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float


def summary(values: Iterable[float]) -> Summary:
    """Summarise values, leaving out NaN; the interval is Student's t."""
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


def crossed(values: ArrayLike, known: int | None = None) -> Summary:
    """Summarise values ``[S, N]`` of S seeds that were all judged on the same N examples.

    Both are samples, of the seeds and of the examples there could have been. With the model mean + seed + example +
    residual the mean has the variance V_seeds + V_examples: V_seeds = MS_seeds / SN is that of the t interval over
    seeds, V_examples = (MS_examples - MS_residual) / SN, not below 0. Howe's half width (1974, JASA 69, 789–794),
    sqrt(t²_{S-1} V_seeds + t²_{N-1} V_examples), covers a little too much where both matter (96.6 % at five seeds),
    that of Satterthwaite's degrees of freedom too little (94.2 %, and 87 % at two seeds, for an MS_seeds that is small
    by chance is given many degrees). Half-way between them it is 94.9–95.8 % at five seeds. Where seeds or examples
    alone matter, both are the t interval. Differences of two methods are summarised by the same function.

    ``known``: on how many examples the values rest, where those of the others are inferred from them (None: all N).
    """
    import numpy as np

    values = np.asarray(values, np.float64)
    seeds, examples = values.shape
    rows, columns = values.mean(1), values.mean(0)
    over_seeds = summary(rows)
    if seeds < 2 or examples < 2:
        return over_seeds
    seeds_ms = examples * over_seeds.sd**2
    examples_ms = seeds * float(columns.var(ddof=1))
    residual = values - rows[:, None] - columns + over_seeds.mean
    residual_ms = float((residual**2).sum()) / ((seeds - 1) * (examples - 1))
    from_seeds, from_examples = (each / values.size for each in (seeds_ms, max(0.0, examples_ms - residual_ms)))
    known = max(2, examples if known is None else known)
    howe = math.hypot(
        student_t(0.975, seeds - 1) * math.sqrt(from_seeds), student_t(0.975, known - 1) * math.sqrt(from_examples)
    )
    spread = seeds_ms**2 / (seeds - 1) + examples_ms**2 / (known - 1)
    spread += residual_ms**2 / ((seeds - 1) * (examples - 1))
    variance = from_seeds + from_examples
    degrees = max(seeds - 1.0, (variance * values.size) ** 2 / spread) if spread else math.inf
    half = (howe + student_t(0.975, degrees) * math.sqrt(variance)) / 2
    return Summary(over_seeds.mean, over_seeds.sd, seeds, over_seeds.mean - half, over_seeds.mean + half)


def wilson(count: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, ``count`` of ``n``, after Wilson (1927); NaN for none."""
    if not n:
        return NAN, NAN
    z = 1.959963984540054
    middle, half = count + z**2 / 2, z * math.sqrt(count * (n - count) / n + z**2 / 4)
    # In exact arithmetic the ends are 0 and 1 where the share is.
    return (middle - half) / (n + z**2) if count else 0.0, (middle + half) / (n + z**2) if count < n else 1.0


def student_t(probability: float, degrees: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
