"""Forms of the KL term of an objective, for any method without one of its own: ``aggressive+free_bits(target=4)``.

A form is a frozen dataclass whose ``of(kl, kl_dim)`` makes a scalar in nats of KL(q(z|x) ‖ p(z)) for each example
``[B]`` and, where the prior has it, for each dimension ``[B, D]``. A schedule's weight comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.config import build, check_ranges
from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class Rate(Protocol):
    def of(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class MeanKL:
    """E KL: the ELBO's own."""

    def of(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        return kl.mean()


#: Where free bits take the maximum: over what a floor holds. ``dim``: KL_d above target / D; ``total``: KL above
#: target; each of the batch's mean (Kingma et al.) or of every example (Li et al.).
PLACEMENTS = ("dim_example", "dim_batch", "total_example", "total_batch")


@dataclass(frozen=True)
class FreeBits:
    """No penalty on a KL below ``target`` nats: ``placement`` says of what. Kingma et al., NeurIPS 2016.

    ``dim_batch``: Σ_d max(λ, mean_B KL_d), λ = target / D; ``dim_example``: mean_B Σ_d max(λ, KL_d);
    ``total_example``: mean_B max(target, KL); ``total_batch``: max(target, mean_B KL).
    """

    target: float = 8.0
    placement: str = "dim_example"

    def __post_init__(self) -> None:
        check_ranges(self, not_negative="target", placement=PLACEMENTS)

    def of(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        over, mean = self.placement.split("_")
        if over == "dim":
            if kl_dim is None:
                raise UserError(
                    f"free bits '{self.placement}' need the KL of every dimension, which this posterior or prior does "
                    "not give: take placement=total_example or total_batch"
                )
            floor = self.target / kl_dim.shape[1]
            held = kl_dim.mean(0) if mean == "batch" else kl_dim
            return held.clamp_min(floor).sum(-1).mean()
        return (kl.mean() if mean == "batch" else kl).clamp_min(self.target).mean()


#: What may stand behind a ``+`` in a method expression, beside a schedule.
RATES: dict[str, type] = {"free_bits": FreeBits}


def restored(record: Mapping[str, Any] | None) -> Rate:
    """The form that a cell's ``config.json`` describes; without one, the mean. ``UserError`` where it is unknown."""
    if record is None:
        return MeanKL()
    name, settings = record["name"], {key: value for key, value in record.items() if key != "name"}
    classes = {cls.__name__: cls for cls in RATES.values()}
    if name not in classes:
        raise UserError(f"no form of the KL term is called {name!r}: there are {', '.join(classes)}")
    return build(classes[name], settings, f"KL term {name}")
