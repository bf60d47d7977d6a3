"""From the states of a decoder to the log-probabilities of words, without the scores of all words at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_LOGITS = 2**23  # scores held at a time: 32 MB, whatever the vocabulary


def chunked_token_nll(states: Tensor, weight: Tensor, words: Tensor) -> Tensor:
    """-log softmax(states · weightᵀ)[words]: states ``[N, H]``, weight ``[V, H]``, words ``[N]`` -> ``[N]``.

    Under autocast products are taken in its type, and all else in single precision. Has no second gradient.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        states, weight = states.to(low), weight.to(low)
    if torch.is_grad_enabled():
        return _ChunkedTokenNLL.apply(states, weight, words)
    return torch.cat([-own for *_, own in _log_probs_by_chunk(states, weight, words)])


def _log_probs_by_chunk(
    states: Tensor, weight: Tensor, words: Tensor, scores: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time: which, log-probabilities of all words ``[n, V]``, to be used before the next are asked for,
    and those of the words that are there ``[n]``.

    They are made in place of the ``scores`` ``[N, V]``, or in a buffer where there is none.
    """
    count = max(1, min(len(states), MAX_LOGITS // len(weight)))
    buffer = states.new_empty(count, len(weight)) if scores is None else scores
    for start in range(0, len(states), count):
        rows = slice(start, start + count)
        some = states[rows]
        here = buffer[: len(some)] if scores is None else buffer[rows]
        log = torch.mm(some, weight.t(), out=here).to(torch.promote_types(here.dtype, torch.float32))
        torch.log_softmax(log, 1, out=log)
        yield rows, log, log.gather(1, words[rows].unsqueeze(1)).squeeze(1)


class _ChunkedTokenNLL(torch.autograd.Function):
    """A row's gradient by its scores, the probabilities less 1 at the word, waits for nothing from above but a factor.
    So the forward pass keeps that, in place of the scores, or what the states get of it if they alone get something."""

    @staticmethod
    def forward(ctx, states, weight, words):
        learned = ctx.needs_input_grad[1]
        excess = states.new_empty(len(states), len(weight)) if learned else None
        through = None if learned else torch.empty_like(states)
        found = []
        for rows, log, own in _log_probs_by_chunk(states, weight, words, excess):
            found.append(-own)
            log.exp_().scatter_(1, words[rows].unsqueeze(1), own.expm1().unsqueeze(1))
            if excess is None:
                torch.mm(log.to(weight.dtype), weight, out=through[rows])
            elif log.dtype != excess.dtype:
                excess[rows] = log
        ctx.save_for_backward(states, weight, excess, through)
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, above):
        states, weight, excess, through = ctx.saved_tensors
        above = above.unsqueeze(1)
        if excess is None:
            return above * through, None, None
        of_states = above * (excess @ weight) if ctx.needs_input_grad[0] else None
        return of_states, excess.t() @ (above * states).to(excess.dtype), None
