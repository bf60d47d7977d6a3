"""Batch normalisation and ELU with closed-form second-order gradients.

PyTorch's double backward of batch normalisation makes some thirty passes over the feature maps. The one here uses
closed forms and processes chunks of images that fit into a core's cache.

Shapes: x, plus and their gradients (B, C, H, W); weight, bias, mean and variance (C,).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

aten = torch.ops.aten

CHUNK_VALUES = 2**17  # processed at a time on a CPU


class NormELU(nn.BatchNorm2d):
    """ELU(BatchNorm(x) + plus) with ``above`` rows of zeros on top: (B, C, H, W) -> (B, C, above + H, W).

    Efficient to differentiate twice, and no more than twice, within ``second_order``.
    """

    second_order = False

    def __init__(self, channels: int, above: int = 0) -> None:
        super().__init__(channels)
        self.above = above

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if self.second_order:
            return _NormELU.apply(x, self.weight, self.bias, plus, self)
        return _elu_of_sum(super().forward(x), plus, self.above)


def _elu_of_sum(h: Tensor, plus: Tensor | None, above: int) -> Tensor:
    """Return ELU(h + plus) below ``above`` rows of zeros; overwrites h."""
    if plus is not None:
        h += plus
    return F.elu_(F.pad(h, (0, 0, above, 0)) if above else h)


class _NormELU(torch.autograd.Function):
    """y = ELU(u), u = w x̂ + b + plus, with x̂ = r (x - mean) and r = 1 / √(var + eps) of each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None, norm: NormELU) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        if norm.training:
            if norm.track_running_stats:
                norm.num_batches_tracked.add_(1)
            averages = (mean, var) if norm.track_running_stats else (mean.clone(), var.clone())
            mean, var = torch.batch_norm_update_stats(x, *averages, norm.momentum)
        y = _elu_of_sum(F.batch_norm(x, mean, var, weight, bias, eps=norm.eps), plus, norm.above)
        ctx.save_for_backward(x, y, weight, mean, var)
        ctx.settings = norm.training, norm.eps, norm.above
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *gradients, to_plus = _NormELUBackward.apply(g, *ctx.saved_tensors, *ctx.settings)
        return *gradients, to_plus if ctx.needs_input_grad[3] else None, None


class _NormELUBackward(torch.autograd.Function):
    """Gradient g of y -> the gradients of x, weight w, bias and plus: w r P(h), Σ h x̂, Σ h and h.

    h = g ELU'(u) and P(h) = h - ⟨h⟩ - x̂ ⟨h x̂⟩ with channel means ⟨·⟩, or P(h) = h with running statistics. The
    gradient of x includes the dependence of mean and variance on x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        mean: Tensor,
        var: Tensor,
        training: bool,
        eps: float,
        above: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = aten.elu_backward(g[:, :, above:], 1, 1, 1, True, y[:, :, above:])
        to_x, sum_hx, sum_h = _norm_backward(h, x, weight, mean, var, training, eps)
        ctx.save_for_backward(g, x, y, weight, mean, var, sum_hx, sum_h)
        ctx.settings = training, eps, above
        ctx.set_materialize_grads(False)
        return to_x, sum_hx, sum_h, h

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, v: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None, v_plus: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of g, x, y and weight.

        They are those of the scalar w r Σ v P(h) + v_weight Σ h x̂ + v_bias Σ h + Σ v_plus h. P is symmetric; a
        gradient u of x̂ is r P(u) in x, and one of r is -r² x̂ / n. Hence the gradient k of h is w r P(v) plus direct
        terms, and that of x is linear in v, h and x, with coefficients that are sums over the channel.
        """
        g, x, y, weight, mean, var, sum_hx, sum_h = ctx.saved_tensors  # in the names of sums, x stands for x̂
        training, eps, above = ctx.settings
        n = x.numel() // x.shape[1]
        r = (var + eps).rsqrt()
        g, inner_y = g[:, :, above:], y[:, :, above:]
        v = torch.zeros_like(x) if v is None else v

        k, sum_vx, sum_v = _norm_backward(v, x, weight, mean, var, training, eps)
        if v_weight is not None:
            k.addcmul_(_per_channel(r * v_weight), x).sub_(_per_channel(r * v_weight * mean))
        if v_bias is not None:
            k += _per_channel(v_bias)
        to_weight = r * _sum_of_products(v, g, inner_y)
        of_v = of_x = torch.zeros_like(r)
        of_h = of_v if v_weight is None else r * v_weight
        if training:
            to_weight -= r * (sum_v * sum_h + sum_vx * sum_hx) / n
            of_v, of_h = -weight * r * r * sum_hx / n, of_h - weight * r * r * sum_vx / n
            of_x = -r * (of_v * sum_vx + of_h * sum_hx + weight * r * to_weight) / n
        offset = -(of_v * sum_v + of_h * sum_h) / n - of_x * mean if training else of_v

        to_g, to_y, to_x = torch.empty_like(y), torch.empty_like(y), k
        to_g[:, :, :above] = to_y[:, :, :above] = 0
        offset, of_v, of_x, of_h = map(_per_channel, (offset, of_v, of_x, of_h))
        inputs, outputs = (k, v_plus, g, inner_y, v, x), (to_g[:, :, above:], to_y[:, :, above:])
        for ks, ps, gs, ys, vs, xs, to_gs, to_ys, h in _chunks(*inputs, *outputs):
            if ps is not None:
                ks += ps
            aten.elu_backward.grad_input(ks, 1, 1, 1, True, ys, grad_input=to_gs)
            # ELU' is y + 1 where y ≤ 0, and 1 elsewhere
            aten.hardtanh_backward.grad_input(torch.mul(ks, gs, out=h), ys, -torch.inf, 0, grad_input=to_ys)
            aten.elu_backward.grad_input(gs, 1, 1, 1, True, ys, grad_input=h)
            torch.addcmul(offset, of_v, vs, out=ks).addcmul_(of_x, xs).addcmul_(of_h, h)  # overwrites k with to_x
        return to_g, to_x, to_y, to_weight, None, None, None, None, None


def _norm_backward(
    h: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, training: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return w r P(h), Σ h x̂ and Σ h, the gradients of batch normalisation."""
    none = mean.new_empty(0)  # CUDA takes no None here
    statistics = (None, None, mean, (var + eps).rsqrt()) if training else (mean, var, none, none)
    return aten.native_batch_norm_backward(h, x, weight, *statistics, training, eps, (True, True, True))


def _sum_of_products(v: Tensor, g: Tensor, y: Tensor) -> Tensor:
    """Return Σ v h (C,), with h = g ELU'(u)."""
    total = torch.zeros(v.shape[1], dtype=v.dtype, device=v.device)
    for vs, gs, ys, h in _chunks(v, g, y):
        total += aten.elu_backward.grad_input(gs, 1, 1, 1, True, ys, grad_input=h).mul_(vs).sum((0, 2, 3))
    return total


def _chunks(first: Tensor, *others: Tensor | None) -> Iterator[tuple]:
    """Yield chunks of images of all tensors (None stays None), followed by an uninitialised buffer of their shape."""
    count = max(1, min(len(first), CHUNK_VALUES // max(1, first[0].numel()))) if first.is_cpu else len(first)
    buffer = torch.empty_like(first[:count])
    chunks = first.split(count)
    other_chunks = [[None] * len(chunks) if t is None else t.split(count) for t in others]
    for chunk, *rest in zip(chunks, *other_chunks, strict=True):
        yield chunk, *rest, buffer[: len(chunk)]


def _per_channel(values: Tensor) -> Tensor:
    """Reshape (C,) to (C, 1, 1)."""
    return values[:, None, None]
