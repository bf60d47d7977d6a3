"""The recurrence of an LSTM with a hand-written second gradient.

Autograd's second gradient of an LSTM needs some forty small operations per step. Here the gradient has four, and the
second gradient nine.

Let L = Σ ⟨g_h, h_t⟩ + ⟨g_c, c_T⟩ for given g. The first backward pass returns ∂L/∂θ for θ = (pre, h_0, c_0, weight).
Differentiating ⟨v, ∂L/∂θ⟩ means differentiating both the outputs and ∂L/∂θ in direction v: the gradient with respect to
g_h and g_c is the tangent of the outputs, that with respect to θ is the tangent of ∂L/∂θ. Hence the second backward
pass runs the tangent of the forward pass, then that of the backward pass. A dot marks a tangent in comments.

Shapes: T steps, B examples, H units. Internally examples are last, so that the values of a gate are contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


def recurrence(pre: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return states (T, B, H) and the final cell state (B, H); differentiable twice.

    Args:
        pre: Contribution of inputs and biases to the gates i, f, g, o before their activation (T, B, 4H).
        h: Initial state (B, H).
        c: Initial cell state (B, H).
        weight: From states to gates (4H, H).
    """
    states, cell = _Recurrence.apply(pre, h, c, weight)
    return states, cell


class _Recurrence(torch.autograd.Function):
    """i, f, o = σ(a), g = tanh(a), with a = pre + weight h; c ← f c + i g, h ← o tanh(c)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        size = weight.shape[1]
        gates = pre.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # (T, 4H, B)
        hidden, cells = (_with_initial(state, len(pre)) for state in (h, c))  # (T + 1, H, B)
        tanh = torch.empty_like(cells[1:])  # of the cells
        steps = zip(gates, hidden, hidden[1:], cells, cells[1:], tanh, strict=False)
        for a, h_before, h_after, c_before, c_after, tanh_c in steps:
            i, f, g, o = a.addmm_(weight, h_before).split(size)
            a[: 2 * size].sigmoid_()
            torch.mul(f, c_before, out=c_after).addcmul_(i, g.tanh_())
            torch.mul(o.sigmoid_(), torch.tanh(c_after, out=tanh_c), out=h_after)
        ctx.save_for_backward(pre, h, c, weight, gates, hidden, cells, tanh)
        return hidden[1:].transpose(1, 2), cells[-1].t()

    @staticmethod
    def backward(ctx: Any, g_h: Tensor, g_c: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _RecurrenceBackward.apply(g_h, g_c, *ctx.saved_tensors, ctx.needs_input_grad[3])


class _RecurrenceBackward(torch.autograd.Function):
    """The gradients of L with respect to pre, h, c and weight.

    ``slopes`` (T, 6, H, B) holds f and the derivatives of c with respect to a_i, a_f and a_g, and of h with respect to
    a_o and c. ``parts`` holds their products with the gradients of c_t (the first four) and of h_t (the others).
    """

    @staticmethod
    def forward(
        ctx: Any,
        g_h: Tensor,
        g_c: Tensor,
        pre: Tensor,
        h: Tensor,
        c: Tensor,
        weight: Tensor,
        gates: Tensor,
        hidden: Tensor,
        cells: Tensor,
        tanh: Tensor,
        train_weight: bool,
    ) -> tuple[Tensor | None, ...]:
        i, f, g, o = gates.chunk(4, dim=1)
        slopes = torch.stack(
            [
                f,
                aten.sigmoid_backward(g, i),
                aten.sigmoid_backward(cells[:-1], f),
                aten.tanh_backward(i, g),
                aten.sigmoid_backward(tanh, o),
                aten.tanh_backward(o, tanh),
            ],
            dim=1,
        )
        to_h = g_h.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # (T, H, B): of every h_t
        to_c, parts = torch.empty_like(to_h), torch.empty_like(slopes)
        carry, last, transposed = g_c.t(), None, weight.t()
        for part, slope, dh, dc in zip(*map(_reversed, (parts, slopes, to_h, to_c)), strict=True):
            if last is not None:
                dh.addmm_(transposed, last)
            torch.mul(slope[4:], dh, out=part[4:])
            torch.add(part[5], carry, out=dc)
            torch.mul(slope[:4], dc, out=part[:4])
            carry, last = part[0], part[1:5].flatten(0, 1)
        ctx.save_for_backward(weight, gates, hidden, cells, tanh, slopes, parts, to_h, to_c)
        ctx.set_materialize_grads(False)
        to_pre = parts[:, 1:5].flatten(1, 2)  # (T, 4H, B)
        to_weight = _sum_of_products(to_pre, hidden[:-1]) if train_weight else None
        return to_pre.transpose(1, 2), (transposed @ to_pre[0]).t(), carry.t(), to_weight

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, v_pre: Tensor | None, v_h: Tensor | None, v_c: Tensor | None, v_weight: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        weight, gates, hidden, cells, tanh, slopes, parts, to_h, to_c = ctx.saved_tensors
        steps, size, batch = tanh.shape
        to_pre = parts[:, 1:5].flatten(1, 2)
        if v_pre is None:
            a_dot = torch.zeros_like(gates)
        else:
            a_dot = v_pre.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # ȧ
        if v_weight is not None:
            a_dot += v_weight @ hidden[:-1]
        zeros = tanh.new_zeros(batch, size)
        h_dot, c_dot = (_with_initial(zeros if v is None else v, steps) for v in (v_h, v_c))  # ḣ, ċ
        states = zip(a_dot, slopes, h_dot, h_dot[1:], c_dot, c_dot[1:], strict=False)
        for a, slope, h_before, h_after, c_before, c_after in states:
            change = slope[1:5] * a.addmm_(weight, h_before).view(4, size, batch)
            torch.sum(change[:3], 0, out=c_after).addcmul_(slope[0], c_before)
            torch.addcmul(change[3], slope[5], c_after, out=h_after)

        parts_dot = _tangent_of_slopes(gates, cells, tanh, slopes, a_dot, c_dot)  # (T, 6, H, B)
        parts_dot[:, :4] *= to_c.unsqueeze(1)
        parts_dot[:, 4:] *= to_h.unsqueeze(1)
        carry, last, transposed = zeros.t(), None, weight.t()
        direct = torch.zeros_like(tanh) if v_weight is None else v_weight.t() @ to_pre  # from step t to h_{t-1}
        dh = torch.zeros_like(carry)
        for part, slope, more in zip(*map(_reversed, (parts_dot, slopes, direct)), strict=True):
            if last is not None:
                dh.addmm_(transposed, last)
            part[4:].addcmul_(slope[4:], dh)
            part[:4].addcmul_(slope[:4], part[5] + carry)
            carry, last, dh = part[0], part[1:5].flatten(0, 1), more
        to_pre_dot = parts_dot[:, 1:5].flatten(1, 2)
        to_weight = _sum_of_products(torch.cat([to_pre_dot, to_pre]), torch.cat([hidden[:-1], h_dot[:-1]]))
        to_h0 = torch.addmm(dh, transposed, to_pre_dot[0]).t()
        outputs = h_dot[1:].transpose(1, 2), c_dot[-1].t()
        return *outputs, to_pre_dot.transpose(1, 2), to_h0, carry.t(), to_weight, None, None, None, None, None


def _tangent_of_slopes(
    gates: Tensor, cells: Tensor, tanh: Tensor, slopes: Tensor, a_dot: Tensor, c_dot: Tensor
) -> Tensor:
    """Return the tangent of ``slopes`` (T, 6, H, B), by the product rule; σ' = σ (1 - σ), σ'' = σ' (1 - 2 σ)."""
    i, f, g, o = gates.chunk(4, dim=1)
    i_dot, f_dot, g_dot, o_dot = a_dot.chunk(4, dim=1)
    di, df, do = (s * (1 - s) for s in (i, f, o))
    dg, dt = 1 - g * g, 1 - tanh * tanh
    t_dot, before, before_dot = dt * c_dot[1:], cells[:-1], c_dot[:-1]
    return torch.stack(
        [
            df * f_dot,
            di * ((1 - 2 * i) * i_dot * g + dg * g_dot),
            df * ((1 - 2 * f) * f_dot * before + before_dot),
            dg * (di * i_dot - 2 * g * g_dot * i),
            do * ((1 - 2 * o) * o_dot * tanh + t_dot),
            do * o_dot * dt - 2 * o * tanh * t_dot,
        ],
        dim=1,
    )


def _with_initial(state: Tensor, steps: int) -> Tensor:
    """Return an uninitialised tensor (steps + 1, H, B) whose first entry is the state (B, H)."""
    batch, size = state.shape
    states = state.new_empty(steps + 1, size, batch)
    states[0] = state.t()
    return states


def _reversed(tensor: Tensor) -> list[Tensor]:
    return list(reversed(tensor.unbind()))


def _sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_t left_t right_tᵀ: (T, I, B), (T, J, B) -> (I, J), as one product."""
    return left.transpose(0, 1).flatten(1) @ right.transpose(1, 2).flatten(0, 1)
