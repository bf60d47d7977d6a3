"""KL-weight schedules, attached to a method by ``+``: ``vae+anneal``, ``beta_vae(beta=0.4)+cyclical``.

Every schedule ends at a weight of 1. Model selection is active only at weight 1, so that all methods are selected by
the same ELBO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.core.config import check_ranges


class Schedule(Protocol):
    """The KL weight β as a function of the training step."""

    def weight(self, step: int, total: int, ramp: float) -> float:
        """Return β.

        Args:
            step: Decoder updates so far in the phase.
            total: Decoder updates planned for the phase.
            ramp: Length of the preset's warm-up as a fraction of ``total``.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """β = 1 throughout."""

    def weight(self, step: int, total: int, ramp: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """Linear warm-up from ``start`` to 1 over ``ramp``, a fraction of the updates (None: the preset's).

    Bowman et al., CoNLL 2016; the start of 0.1 is that of He et al., ICLR 2019.
    """

    start: float = 0.1
    ramp: float | None = None  # fraction of the updates; None: the preset's

    def __post_init__(self) -> None:
        check_ranges(self, not_negative="start ramp")
        if self.ramp is not None and self.ramp > 1:
            raise ValueError(f"'ramp' is a fraction of the updates, at most 1, not {self.ramp}")

    def weight(self, step: int, total: int, ramp: float) -> float:
        length = (ramp if self.ramp is None else self.ramp) * total
        return 1.0 if step >= length else self.start + (1 - self.start) * step / length


@dataclass(frozen=True)
class Cyclical:
    """``cycles`` linear ramps from 0 to 1, each over the first ``ratio`` of its cycle. Fu et al., NAACL 2019."""

    cycles: int = 4
    ratio: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "cycles ratio")
        if self.ratio > 1:
            raise ValueError(f"'ratio' is a fraction of a cycle, at most 1, not {self.ratio}")

    def weight(self, step: int, total: int, ramp: float) -> float:
        position = (step * self.cycles / total) % 1 if step < total else 1.0
        return min(1.0, position / self.ratio)


#: Name after the ``+`` of an expression -> schedule.
SCHEDULES: dict[str, type] = {"anneal": Linear, "cyclical": Cyclical}
