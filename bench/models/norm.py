"""Batch normalisation whose gradient has a cheap gradient, for methods that learn through gradient steps.

Forward and backward are PyTorch's own kernels. Its double backward is some thirty passes over the feature maps; the
closed formula here takes a third of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BatchNorm2d(nn.BatchNorm2d):
    """``[B, C, H, W]`` -> the same: ``nn.BatchNorm2d`` to the bit up to first gradients, and up to rounding in second
    ones.

    The closed formula serves training mode with running averages that stand still, as within
    ``bench.models.vae.fixed_statistics``, and there third gradients are refused. Gradients of gradients are taken
    there, and plain updates elsewhere, which calls into Python would slow down by a twentieth.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.track_running_stats:
            return super().forward(x)
        self._check_input_dim(x)
        if x.numel() == x.shape[1]:  # a single value per channel: the parent says what is wrong
            return super().forward(x)
        return _Normalise.apply(x, self.weight, self.bias, self.eps)


class _Normalise(torch.autograd.Function):
    """x, weight, bias -> weight · x̂ + bias, with x̂ = r (x - mean) and r = 1 / √(var + eps) of each channel."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        y, mean, r, reserve, kernel = torch._batch_norm_impl_index(
            x, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled
        )
        ctx.save_for_backward(x, weight, mean, r, reserve)
        ctx.settings = kernel, eps
        return y

    @staticmethod
    def backward(ctx, g):
        differentiate = _NormaliseBackward.apply if torch.is_grad_enabled() else _kernel
        gx, gweight, gbias = differentiate(g, *ctx.saved_tensors, *ctx.settings)
        _, weight, bias, _ = ctx.needs_input_grad
        return gx, gweight if weight else None, gbias if bias else None, None


class _NormaliseBackward(torch.autograd.Function):
    """Gradient g of y -> those of x, weight w and bias: w r P(g), Σ g x̂ and Σ g, where P(u) = u - ⟨u⟩ - x̂ ⟨u x̂⟩
    with means ⟨·⟩ over the channel.

    Mean and r come in as numbers; that they depend on x is part of the gradient given for x.
    """

    @staticmethod
    def forward(ctx, g, x, weight, mean, r, reserve, kernel, eps):
        gx, gweight, gbias = _kernel(g, x, weight, mean, r, reserve, kernel, eps)
        ctx.save_for_backward(g, x, weight, mean, r, gweight, gbias)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return gx, gweight, gbias

    @staticmethod
    @once_differentiable
    def backward(ctx, v, v_weight, v_bias):
        """Cotangents v ``[B, C, H, W]``, v_weight and v_bias ``[C]`` -> the gradients of g, x and weight.

        The scalar is w r Σ v P(g) + v_weight Σ g x̂ + v_bias Σ g. P is symmetric; a gradient u of x̂ is r P(u) in x, and
        one of r is -r² x̂ / n. So x's gradient is linear in v, g and x, and all sums but Σ v g are the kernels' own.
        """
        g, x, weight, mean, r, sum_gx, sum_g = ctx.saved_tensors  # x is x̂ in the names of sums
        n = x.numel() // x.shape[1]
        if v is None:
            v = torch.zeros_like(g)
        to_g, sum_vx, sum_v = torch.ops.aten.native_batch_norm_backward.default(
            v, x, weight, None, None, mean, r, True, ctx.eps, (True, True, True)
        )
        to_weight = r * ((v * g).sum((0, 2, 3)) - (sum_v * sum_g + sum_vx * sum_gx) / n)

        wr = r if weight is None else weight * r
        of_v = -wr * r * sum_gx / n
        of_g = -wr * r * sum_vx / n
        if v_weight is not None:
            of_g = of_g + r * v_weight
        of_x = -r * (of_v * sum_vx + of_g * sum_gx + wr * to_weight) / n
        offset = -(of_v * sum_v + of_g * sum_g) / n - of_x * mean
        to_x = _linear(offset, of_x, x).addcmul_(_maps(of_g), g).addcmul_(_maps(of_v), v)

        if v_weight is not None:
            to_g += _linear(-v_weight * r * mean, v_weight * r, x)
        if v_bias is not None:
            to_g += _maps(v_bias)
        return to_g, to_x, None if weight is None else to_weight, None, None, None, None, None


def _kernel(g, x, weight, mean, r, reserve, kernel, eps):
    return torch.ops.aten._batch_norm_impl_index_backward.default(
        kernel, x, g, weight, None, None, mean, r, True, eps, (True, True, True), reserve
    )


def _maps(values: Tensor) -> Tensor:
    """``[C]`` -> ``[C, 1, 1]``."""
    return values[:, None, None]


def _linear(offset: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    return torch.addcmul(_maps(offset), _maps(slope), x)
