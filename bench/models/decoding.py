"""The most probable sentences of a decoder that goes word by word (``start``, ``next``, ``unroll``, ``longest``), as
``bench.models.text.LSTMDecoder`` does. A decoder's ``sample`` draws instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.data.dataset import END, PAD, START


def greedy(decoder: Any, code: Tensor) -> Tensor:
    """The most probable word at every step: code ``[N, …]`` -> int64 ``[N, T]``."""
    return decoder.unroll(code, lambda scores: scores.argmax(dim=1))


@torch.no_grad()
def beam(decoder: Any, code: Tensor, width: int = 5) -> Tensor:
    """The most probable sentence that a beam of ``width`` finds: code ``[N, …]`` -> int64 ``[N, T]``.

    Scores are whole log-probabilities, not divided by length. A search ends when the best of its beam has ended, for
    no other can come to surpass it.
    """
    count, device = len(code), code.device
    code = code.repeat_interleave(width, dim=0)
    state = decoder.start(code)
    rows = torch.full((count, width, 1), START, device=device)
    total = torch.full((count, width), -torch.inf, device=device)
    total[:, 0] = 0.0  # the others are copies of the first
    ended = torch.zeros(count, width, dtype=torch.bool, device=device)
    while rows.shape[2] < decoder.longest and not ended[:, 0].all():
        scores, state = decoder.next(rows[:, :, -1].flatten(), code, state)
        scores = scores.unflatten(0, (count, width))
        scores[ended] = -torch.inf
        scores[..., PAD].masked_fill_(ended, 0.0)  # what has ended goes on at no cost, by a pad
        total, best = (total.unsqueeze(-1) + scores).flatten(1).topk(width)
        parent, word = best // scores.shape[-1], best % scores.shape[-1]
        rows = torch.cat([rows.gather(1, parent.unsqueeze(-1).expand_as(rows)), word.unsqueeze(-1)], dim=2)
        ended = ended.gather(1, parent) | (word == END)
        kept = (parent + width * torch.arange(count, device=device).unsqueeze(1)).flatten()
        state = tuple(part[:, kept] for part in state)
    return rows[:, 0]
