"""Forms of the KL term of an objective, for any method without one of its own: ``aggressive+free_bits(target=4)``.

A form is a frozen dataclass whose ``of(kl, kl_dim)`` makes a scalar in nats of KL(q(z|x) ‖ p(z)) for each example
``[B]`` and, where the prior has it, for each dimension ``[B, D]``, else None. A schedule's weight comes on top. Methods
lend theirs (``Method.lends``), under the method's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class KLTerm(Protocol):
    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class MeanKL:
    """E KL: the ELBO's own."""

    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        return kl.mean()
