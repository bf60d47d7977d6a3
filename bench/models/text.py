"""Text networks of He et al. (2019): an LSTM encoder, and an LSTM decoder that sees z at every word.

Rows of word ids ``[B, T]`` are ``<s> w1 … wn </s> <pad> …``. The decoder predicts every word from those before it, so
it can model a sentence without z: that is what makes posterior collapse possible.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.config import TextModelConfig
from bench.data.dataset import END, PAD, START
from bench.models.kernels.cross_entropy import chunked_token_nll
from bench.models.kernels.lstm import LSTM, State
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead


class LSTMFeatures(nn.Module):
    """``[B, T]`` -> ``[B, hidden]``: the state after ``</s>``, with word embeddings of its own."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = LSTM(embedding, hidden)
        uniform_(self.embedding.weight, bound=0.1)
        for parameter in self.lstm.parameters():
            uniform_(parameter)

    def states(self, x: Tensor) -> Tensor:
        """``[B, T]`` -> the state after every word, ``[B, T, hidden]``."""
        return self.lstm(step_by_step(self.embedding, x))[0]

    def forward(self, x: Tensor) -> Tensor:
        states = self.states(x)
        last = (x != PAD).sum(dim=1) - 1
        return states[torch.arange(len(x), device=x.device), last]


class LatentState(nn.Module):
    """z ``[N, D]`` -> ``[N, D + hidden]``: z for every input, and with it c0 = W z."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(dim, hidden, bias=False)
        uniform_(self.linear.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, self.linear(z)], dim=-1)


class LSTMDecoder(nn.Module):
    """p(x|z), word by word: an LSTM over [embedding; z] started at c0 = W z, h0 = tanh(c0).

    Without a latent (``dim`` 0) a language model that starts from zeros. Dropout on embeddings and on output states.
    ``readout(states [N, T, hidden], code [N, …])`` is what the vocabulary layer sees, where a method sets one.
    Within ``second_order`` it can be differentiated twice.
    """

    second_order = False

    def __init__(self, vocabulary: int, embedding: int, hidden: int, dim: int, dropout: float, longest: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = LSTM(embedding + dim, hidden)
        self.output = nn.Linear(hidden, vocabulary, bias=False)
        self.dim, self.hidden, self.dropout, self.longest = dim, hidden, dropout, longest
        self.readout: nn.Module | None = None
        uniform_(self.embedding.weight, bound=0.1)
        with torch.no_grad():
            of_words, of_z = self.lstm.weight_ih_l0.split([embedding, dim], dim=1)
        for weight in (of_words, self.lstm.weight_hh_l0, self.lstm.bias_ih_l0, self.lstm.bias_hh_l0):
            uniform_(weight)
        uniform_(self.output.weight)
        uniform_(of_z)  # last, so that all the rest starts with the same weights with and without a latent

    def start(self, code: Tensor) -> State:
        """The state before the first word: code ``[N, D + hidden]`` -> (h0, c0)."""
        cell = code[:, self.dim :] if self.dim else code.new_zeros(len(code), self.hidden)
        return cell.tanh().unsqueeze(0), cell.unsqueeze(0)

    def states(self, words: Tensor, code: Tensor, state: State, samples: int = 1) -> tuple[Tensor, State]:
        """Words ``[N, T]`` read from ``state`` on -> output states ``[N, T, hidden]``, or what is read out of them, and
        the state after them."""
        embedded = self.dropped(step_by_step(self.embedding, words), samples)
        hidden, state = self.lstm(embedded, state, code[:, : self.dim] if self.dim else None)
        hidden = self.dropped(hidden, samples)
        return (hidden if self.readout is None else self.readout(hidden, code)), state

    def dropped(self, h: Tensor, samples: int = 1) -> Tensor:
        """Dropout of ``[B·S, T, …]`` in training mode, the same for all samples of an example: importance weights are
        of codes, not of masks. On a CPU uniform numbers are drawn, step by step whatever the layout of h, three times
        faster than Bernoulli ones."""
        if not self.training or not self.dropout:
            return h
        if h.is_cpu:
            kept = torch.rand(h[::samples].transpose(0, 1).shape).ge_(self.dropout).div_(1 - self.dropout)
            kept = kept.transpose(0, 1).to(h.dtype)
        elif samples == 1:
            return F.dropout(h, self.dropout)
        else:
            kept = F.dropout(torch.ones_like(h[::samples]), self.dropout)
        return (kept.repeat_interleave(samples, dim=0) if samples > 1 else kept) * h

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        """code ``[B·S, D + hidden]``, x ``[B, T]`` -> log p(x|z) ``[B, S]`` of all words and ``</s>``."""
        words = x.repeat_interleave(samples, dim=0) if samples > 1 else x
        hidden, _ = self.states(words[:, :-1], code, self.start(code), samples)
        hidden, target = hidden.transpose(0, 1), words[:, 1:].t()
        flat = hidden.flatten(0, 1), self.output.weight, target.flatten()
        nats = (
            F.cross_entropy(F.linear(*flat[:2]), flat[2], reduction="none")
            if self.second_order
            else chunked_token_nll(*flat)
        )
        return -nats.view(target.shape).masked_fill(target == PAD, 0).sum(0).unflatten(0, (len(x), samples))

    def next(self, word: Tensor, code: Tensor, state: State) -> tuple[Tensor, State]:
        """One word ``[N]`` further: the scores ``[N, V]`` of the word that follows, log-probabilities, and the state.

        A pad and a start never follow.
        """
        hidden, state = self.states(word.unsqueeze(1), code, state)
        scores = self.output(hidden.squeeze(1))
        scores[:, [PAD, START]] = -torch.inf
        return F.log_softmax(scores, dim=-1), state

    def sample(self, code: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z), word by word, for a decoder in evaluation mode: code ``[N, …]`` -> int64 ``[N, T]``.

        A sentence that has not ended at the longest of the data set is cut there.
        """
        return self.unroll(code, lambda scores: torch.multinomial(scores.exp(), 1, generator=generator).squeeze(1))

    @torch.no_grad()
    def unroll(self, code: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Sentences whose every word is the choice ``[N]`` among the scores ``[N, V]``, until ``</s>`` or the longest
        row."""
        state = self.start(code)
        rows = [torch.full((len(code),), START, device=code.device)]
        ended = torch.zeros(len(code), dtype=torch.bool, device=code.device)
        while len(rows) < self.longest and not ended.all():
            scores, state = self.next(rows[-1], code, state)
            word = choose(scores)
            rows.append(word.masked_fill(ended, PAD))
            ended |= word == END
        return torch.stack(rows, dim=1)


def step_by_step(embedding: nn.Embedding, words: Tensor) -> Tensor:
    """Embeddings ``[B, T, E]`` of words ``[B, T]``, those of a step together in memory, as an LSTM reads them."""
    return embedding(words.t()).transpose(0, 1)


def uniform_(weight: Tensor, bound: float = 0.01) -> None:
    """U(-bound, bound), the reference's initialisation of everything but embeddings, where the bound is 0.1."""
    nn.init.uniform_(weight, -bound, bound)


def build_text_model(config: TextModelConfig, vocabulary: int, longest: int, latent: bool = True) -> VAE:
    """A freshly initialised model for so many words and rows of at most ``longest`` ids; without a latent, the
    decoder's language model alone."""
    sizes = (config.embedding, config.hidden)
    dim = config.latent_dim if latent else 0
    decoder = LSTMDecoder(vocabulary, *sizes, dim, config.dropout, longest)
    if not latent:
        return VAE(EmptyFeatures(), EmptyHead(), nn.Identity(), decoder, latent_dim=0)
    latent_to_decoder = LatentState(dim, config.hidden)
    head = GaussianHead(config.hidden, dim, bias=False)
    uniform_(head.linear.weight)
    return VAE(LSTMFeatures(vocabulary, *sizes), head, latent_to_decoder, decoder, dim)
