"""Free bits as a form of the KL term, for methods that have it and for those that it is attached to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bench.method import check_ranges

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

    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        if not self.target:
            return kl.mean()  # what rounds to a KL below 0 counts too
        over, mean = self.placement.split("_")
        if over == "dim":
            if kl_dim is None:
                raise ValueError(
                    f"free bits '{self.placement}' need the KL of every dimension, which this posterior or prior does "
                    "not give: take placement=total_example or total_batch"
                )
            floor = self.target / kl_dim.shape[1]
            held = kl_dim.mean(0) if mean == "batch" else kl_dim
            return held.clamp_min(floor).sum(-1).mean()
        return (kl.mean() if mean == "batch" else kl).clamp_min(self.target).mean()
