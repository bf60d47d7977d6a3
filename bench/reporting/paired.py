"""Intervals over seeds and test examples, of one row and of the paired differences of two.

The same seed has the same initial weights, batches and noise in every method, so the interval of the paired
differences is the one to compare methods by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reporting.statistics import Summary, crossed, summary

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Pairs = list[list[float | int | None]]  # [first row, second row, mean, low, high, common seeds], rows by position


def interval(cells: DataFrame, name: str, reference: DataFrame | None = None) -> tuple[Summary, int]:
    """Summarise a metric over the seeds of one method, or its differences to ``reference`` over their common seeds.

    Also return the number of test examples in the interval. It treats seeds and examples as crossed noise
    (``statistics.crossed``) if every seed has stored values per example on the same examples. Otherwise it is the t
    interval over seeds, with 0 examples.
    """
    row = RowValues.of(cells, name)
    return (row if reference is None else row.minus(RowValues.of(reference, name))).summarise()


def relative_flops(cells: DataFrame, reference: DataFrame) -> Series:
    """Return the FLOPs of cells relative to those of the reference row in the same seed; NaN without that seed."""
    flops = reference.set_index("replicate")["flops"]
    return cells["flops"] / cells["replicate"].map(flops[flops > 0]).astype(float)


@dataclass(frozen=True)
class Examples:
    """Values ``[N]`` of one cell on the test examples ``index`` ``[N]``; ``measured`` of them, the others inferred."""

    index: np.ndarray
    values: np.ndarray
    measured: int


@dataclass(frozen=True)
class RowValues:
    """A metric of one row: its mean over test examples by replicate, and the examples that are stored."""

    means: dict[str, float]
    examples: dict[str, Examples]

    @classmethod
    def of(cls, cells: DataFrame, name: str) -> RowValues:
        """Return the values of some rows of ``cells_frame``, without cells that have none."""
        means, examples = {}, {}
        for replicate, value, cell in zip(cells["replicate"], cells[name], cells["cell"], strict=True):
            if math.isnan(value):
                continue
            means[replicate] = float(value)
            stored: Any = cell.examples
            if name in stored.values:
                measured = stored.sampled if name == "nll" else len(stored.index)
                examples[replicate] = Examples(stored.index, stored.values[name], measured)
        return cls(means, examples)

    def minus(self, other: RowValues) -> RowValues:
        """Return the differences over common seeds and, within a seed, common examples."""
        common = [replicate for replicate in self.means if replicate in other.means]
        examples = {}
        for replicate in common:
            if (a := self.examples.get(replicate)) and (b := other.examples.get(replicate)):
                index, values = a.index, (a.values, b.values)
                if not np.array_equal(a.index, b.index):
                    index, first, second = np.intersect1d(a.index, b.index, return_indices=True)
                    values = (a.values[first], b.values[second])
                examples[replicate] = Examples(index, values[0] - values[1], min(a.measured, b.measured))
        return RowValues({replicate: self.means[replicate] - other.means[replicate] for replicate in common}, examples)

    def summarise(self) -> tuple[Summary, int]:
        """Return mean and interval, and the number of test examples in it (see ``interval``)."""
        stored = [self.examples[replicate] for replicate in self.means if replicate in self.examples]
        if len(self.means) > 1 and len(stored) == len(self.means):
            index = stored[0].index
            if len(index) and all(np.array_equal(each.index, index) for each in stored):
                values = np.stack([each.values for each in stored])  # (S, N)
                if np.isfinite(values).all():
                    measured = min(each.measured for each in stored)
                    return crossed(values, min(measured, len(index))), len(index)
        return summary(self.means.values()), 0


def paired_differences(frame: DataFrame, methods: Sequence[str], name: str) -> Pairs:
    """Return the mean difference first − second of a metric and its interval for every two rows with common seeds.

    ``low`` and ``high`` are None with one common seed.
    """
    done = frame[frame["status"] == "done"]
    rows = [RowValues.of(done[done["method"] == method], name) for method in methods]
    pairs: Pairs = []
    for i, first in enumerate(rows):
        for j in range(i + 1, len(rows)):
            value, _ = first.minus(rows[j]).summarise()
            if value.n:
                pairs.append([i, j, *(_rounded(x) for x in (value.mean, value.low, value.high)), value.n])
    return pairs


def _rounded(value: float) -> float | None:
    return round(value, 4) + 0.0 if math.isfinite(value) else None
