"""Forms of the KL term of an objective, for any method without one of its own: ``aggressive+free_bits(target=4)``.

A form is a frozen dataclass whose ``of(kl, kl_dim)`` makes a scalar in nats of KL(q(z|x) ‖ p(z)) for each example
``[B]`` and, where the prior has it, for each dimension ``[B, D]``, else None. A schedule's weight comes on top. Methods
lend theirs (``Method.lends``), under the method's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.core.config import build
from bench.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class KLTerm(Protocol):
    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class MeanKL:
    """E KL: the ELBO's own."""

    def __call__(self, kl: Tensor, kl_dim: Tensor | None) -> Tensor:
        return kl.mean()


def restored(record: Mapping[str, Any], forms: Iterable[type]) -> KLTerm:
    """The form that a cell's ``config.json`` describes, one of these. ``UserError`` where it is none of them."""
    name, settings = record["name"], {key: value for key, value in record.items() if key != "name"}
    classes = {cls.__name__: cls for cls in forms}
    if name not in classes:
        raise UserError(f"no form of the KL term is called {name!r}: there are {', '.join(classes)}")
    return build(classes[name], settings, f"KL term {name}")
