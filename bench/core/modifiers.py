"""Modifiers, attached to a method by ``+``.

KL-weight schedules (``vae+anneal``), KL terms (``sa_vae+free_bits``), and the learning rate (``vae+lr(scale=2)``).

Every schedule ends at a weight of 1. Model selection is active only at weight 1, so that all methods are selected by
the same ELBO. A KL term replaces the mean KL in the loss; methods export theirs as ``Method.exported_kl_term``. The
schedule's weight multiplies its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from bench.core.config import check_ranges
from bench.core.space import Range, Space

if TYPE_CHECKING:
    from torch import Tensor


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

    space: ClassVar[Space] = {"ramp": Range(0.05, 0.9)}

    start: float = 0.1
    ramp: float | None = None  # fraction of the updates; None: the preset's

    def __post_init__(self) -> None:
        check_ranges(self, not_negative="start ramp", at_most_one="ramp")

    def weight(self, step: int, total: int, ramp: float) -> float:
        length = (ramp if self.ramp is None else self.ramp) * total
        return 1.0 if step >= length else self.start + (1 - self.start) * step / length


@dataclass(frozen=True)
class Cyclical:
    """``cycles`` linear ramps from 0 to 1, each over the first ``ratio`` of its cycle. Fu et al., NAACL 2019."""

    space: ClassVar[Space] = {"cycles": Range(2, 10), "ratio": Range(0.25, 0.9, log=False)}

    cycles: int = 4
    ratio: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "cycles ratio", at_most_one="ratio")

    def weight(self, step: int, total: int, ramp: float) -> float:
        position = (step * self.cycles / total) % 1 if step < total else 1.0
        return min(1.0, position / self.ratio)


#: Name after the ``+`` of an expression -> schedule.
SCHEDULES: dict[str, type] = {"anneal": Linear, "cyclical": Cyclical}


@dataclass(frozen=True)
class LearningRate:
    """The preset's learning rate times ``scale``. Rates that a method sets itself stay as they are."""

    space: ClassVar[Space] = {"scale": Range(0.25, 4.0)}

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "scale")


#: Name after the ``+`` of the modifier of the learning rate.
LEARNING_RATE = "lr"


class KLTerm(Protocol):
    """The KL part of a loss as a function of the per-example KL."""

    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        """Return a scalar in nats, from KL(q(z|x) || p(z)) kl (B,) and that of each dimension kl_dim (B, D).

        ``kl_dim`` is None if the prior has no closed form.
        """
        ...


@dataclass(frozen=True)
class MeanKL:
    """The mean KL, as in the ELBO."""

    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        return kl.mean()
