"""Decoders of text: their base class, and decoding by greedy and beam search.

Shapes: N rows (B examples × S samples), T words, H units of a state, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.dataset import END, PAD, START
from bench.models.kernels.cross_entropy import chunked_token_nll, token_nll

State = tuple[Tensor, ...]  # of a decoder between two words; the second dimension of each tensor is N


class TextDecoder(nn.Module):
    """p(x|z), word by word; base class of the decoders of text.

    A decoder implements ``start`` and ``states`` and sets the attributes below. A method may replace ``embedding``, or
    set ``readout(states (N, T, H), code (N, …))``, whose result ``output`` reads instead of the states. Codes begin
    with z (N, D). Within ``second_order`` a decoder can be differentiated twice.
    """

    second_order = False
    embedding: nn.Embedding
    output: nn.Linear  # states (N, T, H) -> logits (N, T, V)
    hidden: int  # H
    dropout: float
    longest: int  # words of a sentence, with <s> and </s>
    initial: Any  # ``initial.weight_(weight)`` initialises a weight that a method adds

    def __init__(self) -> None:
        super().__init__()
        self.readout: nn.Module | None = None

    def start(self, code: Tensor) -> State:
        """Return the state before the first word from codes (N, …)."""
        raise NotImplementedError

    def states(self, words: Tensor, code: Tensor, state: Any, samples: int = 1) -> tuple[Tensor, State]:
        """Read words (N, T) from a state; return the inputs of ``output`` (N, T, …) and the final state."""
        raise NotImplementedError

    def read(self, hidden: Tensor, code: Tensor) -> Tensor:
        """Return what ``output`` reads of states (N, T, H)."""
        return hidden if self.readout is None else self.readout(hidden, code)

    def drop_units(self, h: Tensor, samples: int = 1) -> Tensor:
        """Apply dropout to h (B·S, T, …) in training mode.

        All samples of an example share a mask, so that importance weights depend on z alone. The CPU branch draws
        integers of 16 bits in time-major order, six times faster than ``F.dropout``.
        """
        if not self.training or not self.dropout:
            return h
        if h.is_cpu:
            shape = h[::samples].transpose(0, 1).shape
            bits = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
            kept = bits[: shape.numel()] >= round(2**16 * self.dropout) - 2**15
            mask = kept.view(shape).transpose(0, 1).to(h.dtype).mul_(1 / (1 - self.dropout))
        elif samples == 1:
            return F.dropout(h, self.dropout)
        else:
            mask = F.dropout(torch.ones_like(h[::samples]), self.dropout)
        return (mask.repeat_interleave(samples, dim=0) if samples > 1 else mask) * h

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        """Return log p(x|z) (B, S) of all words and ``</s>``, for codes (B·S, …) and words x (B, T)."""
        words = x.repeat_interleave(samples, dim=0) if samples > 1 else x
        hidden, _ = self.states(words[:, :-1], code, self.start(code), samples)
        hidden, target = hidden.transpose(0, 1), words[:, 1:].t()  # time-major
        states, weight = hidden.flatten(0, 1), self.output.weight  # (T·N, H), (V, H)
        nats = (token_nll if self.second_order else chunked_token_nll)(states, weight, target.flatten())
        return -nats.view(target.shape).masked_fill(target == PAD, 0).sum(0).unflatten(0, (len(x), samples))

    def next(self, word: Tensor, code: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word (N,); return log-probabilities (N, V) of the next word, never <pad> or <s>, and the state."""
        hidden, state = self.states(word.unsqueeze(1), code, state)
        scores = self.output(hidden.squeeze(1))
        scores[:, [PAD, START]] = -torch.inf
        return F.log_softmax(scores, dim=-1), state

    def sample(self, code: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample sentences (N, T) for codes (N, …), in evaluation mode, cut at the longest length in the data."""
        return self.unroll(code, lambda scores: torch.multinomial(scores.exp(), 1, generator=generator).squeeze(1))

    @torch.no_grad()
    def unroll(self, code: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Generate sentences (N, T) in which ``choose`` maps log-probabilities (N, V) to the next words (N,)."""
        state = self.start(code)
        rows = [torch.full((len(code),), START, device=code.device)]
        ended = torch.zeros(len(code), dtype=torch.bool, device=code.device)
        while len(rows) < self.longest and not ended.all():
            scores, state = self.next(rows[-1], code, state)
            word = choose(scores)
            rows.append(word.masked_fill(ended, PAD))
            ended |= word == END
        return torch.stack(rows, dim=1)


def greedy(decoder: TextDecoder, code: Tensor) -> Tensor:
    """Return the most probable word at every step: codes (N, …) -> int64 (N, T)."""
    return decoder.unroll(code, lambda scores: scores.argmax(dim=1))


@torch.no_grad()
def beam(decoder: TextDecoder, code: Tensor, width: int = 5) -> Tensor:
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
        state = tuple(part[:, index] for part in state)
    return rows[:, 0]
