"""One LSTM layer. Trained on a CPU, its passes are written out here: what every step shares is computed once, a step is
few large operations in place, and what is frozen costs no gradient. All else is torch's, on CUDA cuDNN's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE = 512  # units: below, the many small steps that are written out take longer than oneDNN's one
BLOCK = 2**15  # numbers of a gate that are worked on at a time, in one step or several: what a cache likes

State = tuple[Tensor, Tensor]  # of an LSTM: (h, c), each [1, N, H]


class LSTM(nn.LSTM):
    """One layer, batch first. Within ``second_order`` it can be differentiated twice, and in evaluation mode, on
    CUDA too, where cuDNN's can not."""

    second_order = False

    def __init__(self, inputs: int, hidden: int):
        super().__init__(inputs, hidden, batch_first=True)

    def reset_parameters(self) -> None:
        """Nothing: who holds the layer draws its weights, in an order of its own."""

    def forward(self, x: Tensor, state: State | None = None, constant: Tensor | None = None) -> tuple[Tensor, State]:
        """x ``[N, T, I]`` -> output states ``[N, T, H]`` and the state after the last; ``constant`` ``[N, D]`` follows
        x in the input of every step."""
        large = self.hidden_size >= LARGE
        if large and x.is_cpu and torch.is_grad_enabled() and not self.second_order:
            h, c = (None, None) if state is None else (state[0][0], state[1][0])
            low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            hidden, cell = _Layer.apply(low, x, constant, h, c, *self._flat_weights)
            return hidden, (hidden[:, -1].unsqueeze(0), cell.unsqueeze(0))
        if constant is not None:
            x = torch.cat([x, constant.unsqueeze(1).expand(-1, x.shape[1], -1)], dim=-1)
        without_cudnn = torch.backends.cudnn.flags(enabled=False) if self.second_order else nullcontext()
        with without_cudnn:
            return super().forward(x, state)


class _Layer(torch.autograd.Function):
    """x ``[N, T, I]``, constant ``[N, D]`` or None, h and c ``[N, H]`` or None, weights -> output states ``[N, T, H]``
    and the last cell ``[N, H]``. Products are taken in ``low`` if it is given, all else in the type of the weights.

    Examples are columns inside: a weight times a few columns is faster than a few rows times its transpose, and every
    gate is contiguous.
    """

    @staticmethod
    def forward(ctx, low, x, constant, h, c, of_inputs, of_states, *biases):
        n, t, i = x.shape
        size, own = of_states.shape[1], of_states.dtype
        kind = low or own
        gates = torch.empty(t, 4 * size, n, dtype=own)  # in, forget, new, out
        cells = torch.empty(t + 1, size, n, dtype=own)
        squashed = torch.empty(t, size, n, dtype=own)  # tanh of the cells
        states = torch.empty(t + 1, size, n, dtype=kind)
        with torch.inference_mode():
            w = of_states.to(kind)
            fixed = (biases[0] + biases[1]).unsqueeze(1)
            if constant is not None:
                fixed = fixed + of_inputs[:, i:].to(kind) @ constant.to(kind).t()
            shared = (of_inputs[:, :i].to(kind) @ _flat(x, kind).t()).view(4 * size, t, n).transpose(0, 1)
            for first, start in ((cells[0], c), (states[0], h)):
                first.zero_() if start is None else first.copy_(start.t())
            for block in _blocks(t, size * n):
                torch.add(shared[block], fixed, out=gates[block])
                last = slice(block.start + 1, block.stop + 1)
                parts = (*gates.unflatten(1, (4, size))[block].unbind(1), gates[block], gates[block, : 2 * size])
                parts += (states[block], states[last], cells[block], cells[last], squashed[block])
                for let_in, keep, new, let_out, gate, both, old, state, cell, to, squash in _steps(parts):
                    torch.addmm(gate, w, old, out=gate) if low is None else gate.add_(w @ old)
                    both.sigmoid_()
                    new.tanh_()
                    let_out.sigmoid_()
                    torch.mul(keep, cell, out=to).addcmul_(let_in, new)
                    torch.mul(let_out, torch.tanh(to, out=squash), out=state)
        ctx.low = low
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, constant, of_inputs, of_states, gates, cells, squashed, states)
        return states[1:].permute(2, 0, 1), cells[-1].t()

    @staticmethod
    @once_differentiable
    def backward(ctx, to_hidden, to_cell):
        x, constant, of_inputs, of_states, gates, cells, squashed, states = ctx.saved_tensors
        n, t, i = x.shape
        size, own = of_states.shape[1], of_states.dtype
        kind = ctx.low or own
        x_wanted, constant_wanted, h_wanted, c_wanted, *wanted = ctx.needs_input_grad[1:]
        found = [None] * 9
        back = of_states.t().to(kind).contiguous()
        to_gates = torch.empty(t, 4 * size, n, dtype=kind)
        to_c = torch.zeros(size, n, dtype=own) if to_cell is None else to_cell.t().clone()
        to_hidden = torch.zeros(t, size, n, dtype=own) if to_hidden is None else to_hidden.permute(1, 2, 0)
        later = None
        with torch.inference_mode():
            to_h = torch.empty(size, n, dtype=own)
            for block in reversed([*_blocks(t, size * n)]):
                g = gates[block].unflatten(1, (4, size))
                slopes = torch.addcmul(g, g, g, value=-1)
                let_in, keep, new, let_out = g.unbind(1)
                slopes[:, 0].mul_(new)
                slopes[:, 1].mul_(cells[block])
                torch.addcmul(let_in, let_in * new, new, value=-1, out=slopes[:, 2])
                slopes[:, 3].mul_(squashed[block])
                through = torch.addcmul(let_out, let_out * squashed[block], squashed[block], value=-1)
                to_g = to_gates[block].unflatten(1, (4, size))
                parts = (to_hidden[block], through, slopes[:, :3], slopes[:, 3], keep)
                parts += (to_g[:, :3], to_g[:, 3], to_gates[block])
                for above, thru, three, one, kept, to_three, to_one, to_all in _steps(parts, backwards=True):
                    if later is None:
                        to_h.copy_(above)
                    elif ctx.low is None:
                        torch.addmm(above, back, later, out=to_h)
                    else:
                        torch.add(above, back @ later, out=to_h)
                    to_c.addcmul_(to_h, thru)
                    torch.mul(three, to_c, out=to_three)
                    torch.mul(one, to_h, out=to_one)
                    to_c.mul_(kept)
                    later = to_all
        if h_wanted:
            found[3] = (back @ later).t()
        if c_wanted:
            found[4] = to_c.t()
        columns = to_gates.transpose(0, 1).reshape(4 * size, t * n)
        total = columns.view(4 * size, t, n).sum(1)
        if x_wanted:
            found[1] = (columns.t() @ of_inputs[:, :i].to(kind)).view(t, n, i).transpose(0, 1)
        if constant_wanted:
            found[2] = total.t() @ of_inputs[:, i:].to(kind)
        if wanted[0]:
            found[5] = torch.empty_like(of_inputs)
            found[5][:, :i] = columns @ _flat(x, kind)
            if constant is not None:
                found[5][:, i:] = total @ constant.to(kind)
        if wanted[1]:
            found[6] = columns @ states[:-1].transpose(1, 2).reshape(t * n, size)
        if wanted[2]:
            found[7] = found[8] = total.sum(1)
        return tuple(found)


def _flat(x: Tensor, kind: torch.dtype) -> Tensor:
    """``[N, T, I]`` -> ``[T·N, I]``."""
    return x.transpose(0, 1).reshape(-1, x.shape[2]).to(kind)


def _blocks(steps: int, numbers: int) -> Iterator[slice]:
    """The steps, as many at a time as BLOCK allows if each has so many numbers."""
    count = max(1, BLOCK // numbers)
    return (slice(start, min(start + count, steps)) for start in range(0, steps, count))


def _steps(parts: tuple[Tensor, ...], backwards: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Tensors ``[T, …]`` step by step."""
    return zip(*(part.unbind()[:: -1 if backwards else 1] for part in parts), strict=True)
