"""FLOP counting: torch's formulas, and those of products, attention and LSTM kernels that it does not count."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """Return a context manager; ``get_total_flops()`` is the number of operations within, two per multiply-add."""
    return FlopCounterMode(display=False, custom_mapping=FORMULAS)


def _mkldnn(x: Sequence[int], input_weights: Sequence[int], hidden_weights: Sequence[int], *_: Any, **__: Any) -> int:
    """Two matrix products per step: x (T, B, I) with weights (4H, I), and the state (B, H) with weights (4H, H)."""
    return 2 * x[0] * x[1] * (prod(input_weights) + prod(hidden_weights))


def _cudnn(x: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    return _mkldnn(x, weights[0], weights[1])


# The backward pass of each product of an LSTM has two: for its input and for its weights.
FORMULAS = {
    aten.addmm_: lambda _, left, right, **__: 2 * prod(left) * right[1],
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(
        out, q, k, v
    ),
    aten.mkldnn_rnn_layer: _mkldnn,
    aten.mkldnn_rnn_layer_backward: lambda *shapes, **_: 2 * _mkldnn(*shapes),
    aten._cudnn_rnn: _cudnn,
    aten._cudnn_rnn_backward: lambda *shapes, **_: 2 * _cudnn(*shapes),
}
