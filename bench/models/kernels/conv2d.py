"""Convolutions with an efficient second-order gradient.

PyTorch's double backward computes the weight's gradient as a convolution with the batch as channels and images as
kernels, on copies in another layout. The same sums are first-order backward passes with other operands.

Shapes: x (B, I, H, W), weight (O, I, h, w), output (B, O, H', W').
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without bias, dilation and groups, efficient to differentiate twice within ``second_order``."""

    second_order = False

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.second_order:
            kind = input.device.type
            if torch.is_autocast_enabled(kind):  # convolution_backward is not autocast
                input, weight = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (input, weight))
            # weight[:] is not a leaf, so that autograd decides whether to compute its gradient
            return _Convolution.apply(input, weight[:], self.stride, self.padding)
        return super()._conv_forward(input, weight, bias)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        needed = [_is_needed(ctx, 0), _is_needed(ctx, 1)]
        return *_ConvolutionBackward.apply(g, *ctx.saved_tensors, *ctx.geometry, needed), None, None


class _ConvolutionBackward(torch.autograd.Function):
    """Output gradient g -> the gradients of x and weight that are needed."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, needed: list[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.geometry = stride, padding
        ctx.set_materialize_grads(False)
        return _gradients(g, x, weight, stride, padding, *needed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_x: Tensor | None, v_weight: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of g, x and weight of Σ g conv(v_x, weight) + Σ g conv(x, v_weight)."""
        g, x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        to_g = to_x = to_weight = None
        if v_x is not None:
            to_g = F.conv2d(v_x, weight, None, stride, padding)
            if ctx.needs_input_grad[2]:
                to_weight = _gradients(g, v_x, weight, stride, padding, False, True)[1]
        if v_weight is not None:
            term = F.conv2d(x, v_weight, None, stride, padding)
            to_g = term if to_g is None else to_g + term
            to_x = _gradients(g, x, v_weight, stride, padding, True, False)[0]
        return to_g, to_x, to_weight, None, None, None


def _gradients(
    g: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of Σ g conv(x, weight) with respect to x and weight, or None where not needed."""
    needed = (need_x, need_weight, False)
    return torch.ops.aten.convolution_backward(g, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, needed)[
        :2
    ]


def _is_needed(ctx: Any, index: int) -> bool:
    """Return whether an input's gradient will be used; ``needs_input_grad`` only says that it could be."""
    if not ctx.needs_input_grad[index]:
        return False
    node, _ = ctx.next_functions[index]
    return node.name() == "torch::autograd::AccumulateGrad" or torch._C._will_engine_execute_node(node)
