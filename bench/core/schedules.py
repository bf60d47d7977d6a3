"""KL-weight schedules, for any method without one of its own: ``vae+anneal``, ``beta_vae(beta=0.4)+cyclical``.

A schedule is a frozen dataclass whose ``weight(step, total, ramp)`` is β at a training step. ``total`` is the
number of updates planned and ``ramp`` the preset's share of them for a ramp. Every schedule comes back to 1:
a model is selected on validation only while the weight is 1, so that no method is chosen on a loss of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bench.core.config import build, check_ranges
from bench.core.errors import UserError


class Schedule(Protocol):
    def weight(self, step: int, total: int, ramp: float) -> float: ...


@dataclass(frozen=True)
class Constant:
    """β = 1 throughout."""

    def weight(self, step: int, total: int, ramp: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """From ``start`` to 1, linear in updates over ``ramp`` (a share of the budget; the preset's by default).

    Bowman et al., CoNLL 2016; started at 0.1 as by He et al., ICLR 2019.
    """

    start: float = 0.1
    ramp: float | None = None

    def __post_init__(self) -> None:
        check_ranges(self, not_negative="start ramp")
        if self.ramp is not None and self.ramp > 1:
            raise ValueError(f"'ramp' is a share of the updates, at most 1, not {self.ramp}")

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
            raise ValueError(f"'ratio' is a share of a cycle, at most 1, not {self.ratio}")

    def weight(self, step: int, total: int, ramp: float) -> float:
        position = (step * self.cycles / total) % 1 if step < total else 1.0
        return min(1.0, position / self.ratio)


#: What may stand behind a ``+`` in a method expression.
SCHEDULES: dict[str, type] = {"anneal": Linear, "cyclical": Cyclical}


def restored(record: Mapping[str, Any]) -> Schedule:
    """The schedule that a cell's ``config.json`` describes. ``UserError`` where it is none of these."""
    name, settings = record["name"], {key: value for key, value in record.items() if key != "name"}
    classes = {cls.__name__: cls for cls in (Constant, *SCHEDULES.values())}
    if name not in classes:
        raise UserError(f"no schedule is called {name!r}: there are {', '.join(classes)}")
    return build(classes[name], settings, f"schedule {name}")
