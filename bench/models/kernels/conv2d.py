"""Convolutions whose gradients have gradients at the price of convolutions.

PyTorch's double backward of a convolution takes the weight's gradient as a convolution with the batch for channels and
images for kernels, on copies in another layout. The same sums are those of the first backward, with other operands.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without bias, dilation and groups; within ``bench.models.vae.second_order`` its gradients have
    gradients that are cheap."""

    second_order = False

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.second_order:
            return _Convolution.apply(
                input, weight[:], self.stride, self.padding
            )  # a view: of leaves the engine does not tell
        return super()._conv_forward(input, weight, bias)


class _Convolution(torch.autograd.Function):
    """x ``[B, I, H, W]``, weight ``[O, I, h, w]`` -> ``[B, O, H', W']``."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx, g):
        wanted = [_wanted(ctx, 0), _wanted(ctx, 1)]
        return *_ConvolutionBackward.apply(g, *ctx.saved_tensors, *ctx.how, wanted), None, None


class _ConvolutionBackward(torch.autograd.Function):
    """Gradient g of the result -> those of x and weight that are wanted."""

    @staticmethod
    def forward(ctx, g, x, weight, stride, padding, wanted):
        ctx.save_for_backward(g, x, weight)
        ctx.how = stride, padding
        ctx.set_materialize_grads(False)
        return _gradients(g, x, weight, stride, padding, *wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx, v, v_weight):
        """Cotangents of both gradients -> the gradients of g, x and weight. All three are bilinear: the scalar is
        Σ g conv(v, weight) + Σ g conv(x, v_weight)."""
        g, x, weight = ctx.saved_tensors
        to_g = to_x = to_weight = None
        if v is not None:
            to_g = F.conv2d(v, weight, None, *ctx.how)
            if ctx.needs_input_grad[2]:
                to_weight = _gradients(g, v, weight, *ctx.how, False, True)[1]
        if v_weight is not None:
            more = F.conv2d(x, v_weight, None, *ctx.how)
            to_g = more if to_g is None else to_g + more
            to_x = _gradients(g, x, v_weight, *ctx.how, True, False)[0]
        return to_g, to_x, to_weight, None, None, None


def _gradients(g, x, weight, stride, padding, of_x: bool, of_weight: bool) -> tuple[Tensor | None, Tensor | None]:
    """Those of Σ g conv(x, weight) in x and weight, or None."""
    made = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (of_x, of_weight, False)
    )
    return made[0], made[1]


def _wanted(ctx, place: int) -> bool:
    """Whether the gradient of an input will be used. ``needs_input_grad`` says that it could be, and the engine knows
    more when it is asked for the gradients of some tensors alone."""
    if not ctx.needs_input_grad[place]:
        return False
    node, _ = ctx.next_functions[place]
    return node.name() == "torch::autograd::AccumulateGrad" or torch._C._will_engine_execute_node(node)
