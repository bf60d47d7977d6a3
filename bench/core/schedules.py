"""KL-weight schedules, for any method without its own: ``vae+anneal``, ``beta_vae(beta=0.4)+cyclical``.

A schedule is a frozen dataclass whose ``weight(step, total, ramp)`` is the KL weight β at update ``step`` of ``total``
planned ones; ``ramp`` is the preset's length of a ramp as a fraction of them. Every schedule ends at 1: models are
selected on validation only while the weight is 1, so that all methods are selected by the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.core.config import check_ranges


class Schedule(Protocol):
    def weight(self, step: int, total: int, ramp: float) -> float: ...


@dataclass(frozen=True)
class Constant:
    """β = 1."""

    def weight(self, step: int, total: int, ramp: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """From ``start`` to 1, linear in updates. Bowman et al., CoNLL 2016; ``start`` = 0.1 as in He et al., ICLR 2019."""

    start: float = 0.1
    ramp: float | None = None  #: Fraction of the updates. None: the preset's.

    def __post_init__(self) -> None:
        check_ranges(self, not_negative="start ramp")
        if self.ramp is not None and self.ramp > 1:
            raise ValueError(f"'ramp' is a fraction of the updates, at most 1, not {self.ramp}")

    def weight(self, step: int, total: int, ramp: float) -> float:
        length = (ramp if self.ramp is None else self.ramp) * total
        return 1.0 if step >= length else self.start + (1 - self.start) * step / length


@dataclass(frozen=True)
class Cyclical:
    """``cycles`` ramps from 0 to 1, each over the first ``ratio`` of its cycle. Fu et al., NAACL 2019."""

    cycles: int = 4
    ratio: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "cycles ratio")
        if self.ratio > 1:
            raise ValueError(f"'ratio' is a fraction of a cycle, at most 1, not {self.ratio}")

    def weight(self, step: int, total: int, ramp: float) -> float:
        position = (step * self.cycles / total) % 1 if step < total else 1.0
        return min(1.0, position / self.ratio)


#: Schedules by their names in method expressions.
SCHEDULES: dict[str, type] = {"anneal": Linear, "cyclical": Cyclical}
