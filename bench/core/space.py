"""Search spaces: the values of a setting that tuning may try. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, uniform in their logarithm or, with ``log=False``, in themselves.

    Whole bounds give whole numbers, other numbers are rounded to three digits.
    """

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"Range({self.low}, {self.high}): the first bound must be lower, and above 0 with log=True"
            )

    def at(self, position: float) -> float:
        """Return the number at a ``position`` in [0, 1)."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        value = low * (high / low) ** position if self.log else low + (high - low) * position
        return min(max(round(value), self.low), self.high) if whole else float(f"{value:.3g}")


@dataclass(frozen=True)
class Choice:
    """One of several values, equally often."""

    values: tuple[Any, ...]

    def at(self, position: float) -> Any:
        """Return the value at a ``position`` in [0, 1)."""
        return self.values[math.floor(position * len(self.values))]


#: Setting -> the values to try.
Space = Mapping[str, Range | Choice]
