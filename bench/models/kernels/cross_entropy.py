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
    device = states.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        states, weight = states.to(low), weight.to(low)
    if torch.is_grad_enabled():
        return _ChunkedTokenNLL.apply(states, weight, words)
    return torch.cat([-target for *_, target in _log_probs_by_chunk(states, weight, words)])


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
