"""Alternative KL terms that can be attached to a method by ``+``, e.g. ``aggressive+free_bits(target=4)``.

A KL term is a frozen dataclass, exported by a method as ``Method.exported_kl_term`` under the method's name. The
schedule's weight multiplies its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


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
