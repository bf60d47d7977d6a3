"""The KL term of free bits, used by ``free_bits``, FBP and ``+free_bits``."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.method import Range, Space, check_ranges

PLACEMENTS = ("dim_example", "dim_batch", "total_example", "total_batch")


@dataclass(frozen=True)
class FreeBits:
    """No penalty on a KL below ``target`` nats. Kingma et al., NeurIPS 2016.

    With λ = target / D, ``placement`` is one of
    ``dim_example``: mean_B Σ_d max(λ, KL_d); ``dim_batch``: Σ_d max(λ, mean_B KL_d);
    ``total_example``: mean_B max(target, KL); ``total_batch``: max(target, mean_B KL).
    """

    space: ClassVar[Space] = {"target": Range(1.0, 32.0)}

    target: float = 8.0
    placement: str = "dim_example"

    def __post_init__(self) -> None:
        check_ranges(self, not_negative="target", placement=PLACEMENTS)

    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        if not self.target:
            return kl.mean()  # not clamped: rounding can make a KL slightly negative
        axis, reduction = self.placement.split("_")
        if axis == "dim":
            if kl_dim is None:
                raise ValueError(
                    f"free bits '{self.placement}' need the KL of every dimension, which this posterior or prior does "
                    "not give: use placement=total_example or total_batch"
                )
            floor = self.target / kl_dim.shape[1]
            floored = kl_dim.mean(0) if reduction == "batch" else kl_dim  # (D,) or (B, D)
            return floored.clamp_min(floor).sum(-1).mean()
        return (kl.mean() if reduction == "batch" else kl).clamp_min(self.target).mean()
