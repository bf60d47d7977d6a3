"""Token likelihoods without the logits of all tokens at a time.

Shapes: N tokens, H hidden units, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_LOGITS = 2**23  # computed at a time: 32 MB


def chunked_token_nll(states: Tensor, weight: Tensor, words: Tensor) -> Tensor:
    """Return -log softmax(states · weightᵀ)[words] in nats: (N, H), (V, H), int64 (N,) -> (N,).

    Under autocast products use its type and all else float32. Differentiable once.
    """
    states, weight = _autocast(states, weight)
    if torch.is_grad_enabled():
        return _ChunkedTokenNLL.apply(states, weight, words)
    return torch.cat([-target for *_, target in _log_probs_by_chunk(states, weight, words)])


def token_nll(states: Tensor, weight: Tensor, words: Tensor) -> Tensor:
    """Return the same, differentiable twice; holds the probabilities of all words (N, V)."""
    return _TokenNLL.apply(*_autocast(states, weight), words)


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the type of products under autocast."""
    device = tensors[0].device.type
    return [t.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else t for t in tensors]


def _log_probs_by_chunk(
    states: Tensor, weight: Tensor, words: Tensor, out: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield for chunks of n rows: their slice, the log-probabilities of all words (n, V) and of the given words (n,).

    The log-probabilities are written to ``out`` (N, V), or else to a buffer that the next chunk overwrites.
    """
    count = max(1, min(len(states), MAX_LOGITS // len(weight)))
    buffer = states.new_empty(count, len(weight)) if out is None else out
    for start in range(0, len(states), count):
        rows = slice(start, start + count)
        chunk = states[rows]
        logits = buffer[: len(chunk)] if out is None else buffer[rows]
        log = torch.mm(chunk, weight.t(), out=logits).to(torch.promote_types(logits.dtype, torch.float32))
        torch.log_softmax(log, 1, out=log)
        yield rows, log, log.gather(1, words[rows].unsqueeze(1)).squeeze(1)


class _ChunkedTokenNLL(torch.autograd.Function):
    """The gradient with respect to a row's logits is p - onehot(word), times the incoming gradient.

    The forward pass stores p - onehot instead of the logits, or, if the weight is frozen, only its product with the
    weight.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, words: Tensor) -> Tensor:
        train_weight = ctx.needs_input_grad[1]
        residual = states.new_empty(len(states), len(weight)) if train_weight else None  # (N, V): p - onehot
        state_grad = None if train_weight else torch.empty_like(states)  # (N, H)
        nll = []
        for rows, log, target in _log_probs_by_chunk(states, weight, words, residual):
            nll.append(-target)
            log.exp_().scatter_(1, words[rows].unsqueeze(1), target.expm1().unsqueeze(1))
            if residual is None:
                torch.mm(log.to(weight.dtype), weight, out=state_grad[rows])  # type: ignore[index]
            elif log.dtype != residual.dtype:
                residual[rows] = log
        ctx.save_for_backward(states, weight, residual, state_grad)
        return torch.cat(nll)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        states, weight, residual, state_grad = ctx.saved_tensors
        grad = grad.unsqueeze(1)
        if residual is None:
            return grad * state_grad, None, None
        to_states = grad * (residual @ weight) if ctx.needs_input_grad[0] else None
        return to_states, residual.t() @ (grad * states).to(residual.dtype), None


class _TokenNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, words: Tensor) -> Tensor:
        logits = states @ weight.t()
        log = torch.log_softmax(logits, 1, dtype=torch.promote_types(logits.dtype, torch.float32))
        index = words.unsqueeze(1)
        target = log.gather(1, index)
        residual = log.exp_().scatter_(1, index, target.expm1())  # (N, V): p - onehot
        ctx.save_for_backward(states, weight, words, residual.to(weight.dtype))
        return -target.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *_TokenNLLBackward.apply(grad, *ctx.saved_tensors, ctx.needs_input_grad[1]), None


class _TokenNLLBackward(torch.autograd.Function):
    """The gradients of L = Σ grad_n nll_n with respect to states and weight.

    Differentiating their product with v means differentiating nll and these gradients in the direction v (see
    ``kernels/lstm.py``). The tangent of the logits is l = states_v weightᵀ + states weight_vᵀ, that of nll is
    (p - onehot) · l, and that of p is p (l - p · l).
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, states: Tensor, weight: Tensor, words: Tensor, residual: Tensor, train_weight: bool
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad, states, weight, words, residual)
        ctx.set_materialize_grads(False)
        scaled = (grad.unsqueeze(1) * states).to(residual.dtype)
        to_weight = residual.t() @ scaled if train_weight else None
        return grad.unsqueeze(1) * (residual @ weight), to_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, v_weight: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad, states, weight, words, residual = ctx.saved_tensors
        v = torch.zeros_like(states) if v is None else v.to(states.dtype)
        grad, index = grad.unsqueeze(1), words.unsqueeze(1)
        tangent = v @ weight.t()  # l
        if v_weight is not None:
            tangent += states @ v_weight.t()
        to_grad = (residual * tangent).sum(1, keepdim=True)
        at_word = tangent.gather(1, index)
        mean = to_grad + at_word  # p · l
        tangent.sub_(mean).mul_(residual).scatter_add_(1, index, at_word - mean).mul_(grad)  # of p, times grad
        to_states = tangent @ weight
        to_weight = tangent.t() @ states + residual.t() @ (grad * v).to(residual.dtype)
        if v_weight is not None:
            to_states = to_states + (grad * residual).to(residual.dtype) @ v_weight
        return to_grad.squeeze(1), to_states, to_weight, None, None, None
