"""Greedy and beam-search decoding of text."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.data.dataset import END, PAD, START
from bench.models.architectures.lstm import LSTMDecoder


def greedy(decoder: LSTMDecoder, code: Tensor) -> Tensor:
    """Return the most probable word at every step: codes (N, …) -> int64 (N, T)."""
    return decoder.unroll(code, lambda scores: scores.argmax(dim=1))


@torch.no_grad()
def beam(decoder: LSTMDecoder, code: Tensor, width: int = 5) -> Tensor:
    """Return the most probable sentences found by beam search: codes (N, …) -> int64 (N, T).

    Scores are log-probabilities without length normalisation, so a search ends when the best hypothesis has ended.
    """
    count, device = len(code), code.device
    code = code.repeat_interleave(width, dim=0)
    state = decoder.start(code)
    rows = torch.full((count, width, 1), START, device=device)
    total = torch.full((count, width), -torch.inf, device=device)
    total[:, 0] = 0.0  # at the start all hypotheses are the same
    ended = torch.zeros(count, width, dtype=torch.bool, device=device)
    while rows.shape[2] < decoder.longest and not ended[:, 0].all():
        scores, state = decoder.next(rows[:, :, -1].flatten(), code, state)
        scores = scores.unflatten(0, (count, width))  # (N, width, V)
        scores[ended] = -torch.inf
        scores[..., PAD].masked_fill_(ended, 0.0)  # an ended hypothesis continues by <pad> at no cost
        total, best = (total.unsqueeze(-1) + scores).flatten(1).topk(width)
        parent, word = best // scores.shape[-1], best % scores.shape[-1]  # (N, width)
        rows = torch.cat([rows.gather(1, parent.unsqueeze(-1).expand_as(rows)), word.unsqueeze(-1)], dim=2)
        ended = ended.gather(1, parent) | (word == END)
        index = (parent + width * torch.arange(count, device=device).unsqueeze(1)).flatten()
        h, c = state
        state = h[:, index], c[:, index]
    return rows[:, 0]
