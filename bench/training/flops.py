"""Floating-point operations as they are counted: torch's own formulas, and those of the fused LSTMs that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """Counts within; ``get_total_flops()`` tells. A multiplication and an addition are two operations."""
    return FlopCounterMode(display=False, custom_mapping=FUSED_LSTMS)


def _mkldnn(x: Sequence[int], of_input: Sequence[int], of_hidden: Sequence[int], *_: Any, **__: Any) -> int:
    """x ``[T, B, I]`` through gates ``[4H, I]`` and ``[4H, H]``: every step is two matrix products."""
    return 2 * x[0] * x[1] * (prod(of_input) + prod(of_hidden))


def _cudnn(x: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    return _mkldnn(x, weights[0], weights[1])


# Backward, each product has two: for what was multiplied, and for the weights.
FUSED_LSTMS = {
    aten.mkldnn_rnn_layer: _mkldnn,
    aten.mkldnn_rnn_layer_backward: lambda *shapes, **_: 2 * _mkldnn(*shapes),
    aten._cudnn_rnn: _cudnn,
    aten._cudnn_rnn_backward: lambda *shapes, **_: 2 * _cudnn(*shapes),
}
