"""Text networks of He et al. (2019): an LSTM encoder, and an LSTM decoder that reads z with every word.

The decoder predicts each word from those before it, so it can model sentences without z, which makes posterior collapse
possible. Rows of word ids are int64 (B, T): ``<s> w_1 … w_n </s> <pad> …``.

Shapes: N rows (B examples × S samples), T words, E embedding units, H hidden units, D latent dimensions, V words of the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.config import TextModelConfig
from bench.data.dataset import PAD, DataInfo
from bench.models.decoding import TextDecoder
from bench.models.kernels.lstm import recurrence
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead

SUMMARY = "LSTM encoder and decoder of He et al. (2019)"
MODALITY = "text"

State = tuple[Tensor, Tensor]  # of an LSTM: (h, c), each (1, N, H)


@dataclass(frozen=True)
class Config:
    """No settings besides ``TextModelConfig``."""


@dataclass(frozen=True)
class Initialisation:
    """Initial weights: U(-bound, bound), and for embeddings U(-0.1, 0.1) or N(0, 1). The defaults are the reference's.

    They suit 1,024 hidden units. In a smaller network the encoder's state hardly depends on the words, so that no
    method gets information into z.
    """

    bound: float = 0.01
    normal_embeddings: bool = False

    @classmethod
    def from_config(cls, config: TextModelConfig) -> Initialisation:
        """Return that of ``config.initialisation``; "width" is PyTorch's for LSTMs and embeddings."""
        return cls() if config.initialisation == "reference" else cls(config.hidden**-0.5, normal_embeddings=True)

    def weight_(self, weight: Tensor) -> None:
        """Initialise a weight or bias in place."""
        nn.init.uniform_(weight, -self.bound, self.bound)

    def embedding_(self, weight: Tensor) -> None:
        """Initialise the weight of an embedding in place."""
        if self.normal_embeddings:
            nn.init.normal_(weight)
        else:
            nn.init.uniform_(weight, -0.1, 0.1)


REFERENCE = Initialisation()


class LSTM(nn.LSTM):
    """One LSTM layer; its tensors are batch first, but stored time-major.

    Within ``second_order`` it can be differentiated twice, and also in evaluation mode on CUDA, which cuDNN's cannot.
    """

    second_order = False

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)

    def reset_parameters(self) -> None:
        """Do nothing: the networks initialise the weights, in their own order."""

    def forward(self, x: Tensor, state: State | None = None, constant: Tensor | None = None) -> tuple[Tensor, State]:
        """Return the output states (N, T, H) and the final state.

        Args:
            x: Inputs (N, T, E).
            state: Initial state; None: zeros.
            constant: Further inputs (N, D), the same at every step.
        """
        x = x.transpose(0, 1)  # time-major
        if self.second_order:
            return self.differentiable_twice(x, state, constant)
        if constant is not None:
            x = torch.cat([x, constant.expand(len(x), -1, -1)], dim=-1)
        if state is not None:
            state = state[0].contiguous(), state[1].contiguous()  # cuDNN takes no other
        states, state = (self.onednn_layer if self.uses_onednn(x) else super().forward)(x.contiguous(), state)
        return states.transpose(0, 1), state

    def differentiable_twice(self, x: Tensor, state: State | None, constant: Tensor | None) -> tuple[Tensor, State]:
        """The same for inputs (T, N, E), always in float32 or float64."""
        with torch.autocast(x.device.type, enabled=False):
            words = x.to(self.weight_ih_l0.dtype)
            h, c = x.new_zeros(2, x.shape[1], self.hidden_size) if state is None else (state[0][0], state[1][0])
            pre = F.linear(words, self.weight_ih_l0[:, : x.shape[2]], self.bias_ih_l0 + self.bias_hh_l0)
            if constant is not None:
                pre = pre + F.linear(constant.to(pre.dtype), self.weight_ih_l0[:, x.shape[2] :])
            states, cell = recurrence(pre, h.to(pre.dtype), c.to(pre.dtype), self.weight_hh_l0)
        return states.transpose(0, 1), (states[-1:], cell.unsqueeze(0))

    def uses_onednn(self, x: Tensor) -> bool:
        """Return whether ``nn.LSTM`` would call oneDNN's layer for inputs x in float32."""
        return (
            x.is_cpu
            and x.dtype == self.weight_ih_l0.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
        )

    def onednn_layer(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Call oneDNN's layer without the operations that ``nn.LSTM`` adds, a quarter of a small layer's time."""
        h, c = x.new_zeros(2, x.shape[1], self.hidden_size) if state is None else (state[0][0], state[1][0])
        weights = self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        mode, train = 2, torch.is_grad_enabled()  # mode 2: LSTM
        states, h, c, _ = torch.mkldnn_rnn_layer(
            x, *weights, h, c, False, [], mode, self.hidden_size, 1, True, False, False, train
        )
        return states, (h.view(1, -1, self.hidden_size), c.view(1, -1, self.hidden_size))


class LSTMFeatures(nn.Module):
    """Words (B, T) -> the encoder's state after ``</s>`` (B, H)."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, initial: Initialisation = REFERENCE) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = LSTM(embedding, hidden)
        initial.embedding_(self.embedding.weight)
        for parameter in self.lstm.parameters():
            initial.weight_(parameter)

    def states(self, x: Tensor) -> Tensor:
        """Return the state after every word (B, T, H)."""
        return self.lstm(embed_time_major(self.embedding, x))[0]

    def forward(self, x: Tensor) -> Tensor:
        states = self.states(x)
        last = (x != PAD).sum(dim=1) - 1
        return states[torch.arange(len(x), device=x.device), last]


class LatentState(nn.Module):
    """z (N, D) -> the decoder's code (N, D + H): z, read with every word, and the initial cell state W z."""

    def __init__(self, dim: int, hidden: int, initial: Initialisation = REFERENCE) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, hidden, bias=False)
        initial.weight_(self.linear.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, self.linear(z)], dim=-1)


class LSTMDecoder(TextDecoder):
    """p(x|z), word by word: an LSTM over [embedding; z] with c_0 = W z, h_0 = tanh(c_0).

    Dropout is applied to embeddings and output states. With ``dim`` 0 it is a language model that starts from zeros.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        hidden: int,
        dim: int,
        dropout: float,
        longest: int,
        initial: Initialisation = REFERENCE,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = LSTM(embedding + dim, hidden)
        self.output = nn.Linear(hidden, vocabulary, bias=False)
        self.dim, self.hidden, self.dropout, self.longest = dim, hidden, dropout, longest
        self.initial = initial  # for the weights that a method adds
        initial.embedding_(self.embedding.weight)
        with torch.no_grad():
            word_weight, latent_weight = self.lstm.weight_ih_l0.split([embedding, dim], dim=1)
        for weight in (word_weight, self.lstm.weight_hh_l0, self.lstm.bias_ih_l0, self.lstm.bias_hh_l0):
            initial.weight_(weight)
        initial.weight_(self.output.weight)
        initial.weight_(latent_weight)  # last, so that all other weights are the same with and without a latent

    def start(self, code: Tensor) -> State:
        """Return the state before the first word from a code (N, D + H)."""
        cell = code[:, self.dim :] if self.dim else self.output.weight.new_zeros(len(code), self.hidden)
        return cell.tanh().unsqueeze(0), cell.unsqueeze(0)

    def states(self, words: Tensor, code: Tensor, state: State, samples: int = 1) -> tuple[Tensor, State]:
        """Read words (N, T) from a state; return the inputs of the vocabulary layer (N, T, …) and the final state."""
        embedded = self.drop_units(embed_time_major(self.embedding, words), samples)
        hidden, state = self.lstm(embedded, state, code[:, : self.dim] if self.dim else None)
        hidden = self.drop_units(hidden, samples)
        return self.read(hidden, code), state


def embed_time_major(embedding: nn.Embedding, words: Tensor) -> Tensor:
    """Return embeddings (B, T, E) of words (B, T), stored time-major, as LSTMs read them."""
    return embedding(words.t()).transpose(0, 1)


def build(settings: Config, sizes: TextModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, the decoder's language model alone."""
    units, initial = (sizes.embedding, sizes.hidden), Initialisation.from_config(sizes)
    dim = sizes.latent_dim if latent else 0
    decoder = LSTMDecoder(data.vocabulary, *units, dim, sizes.dropout, data.shape[0], initial)
    return with_lstm_encoder(decoder, sizes, data, initial)


def with_lstm_encoder(decoder: TextDecoder, sizes: TextModelConfig, data: DataInfo, initial: Initialisation) -> VAE:
    """Return the VAE of a decoder that reads the codes of ``LatentState``; if its ``dim`` is 0, the decoder alone."""
    if not decoder.dim:
        return VAE(EmptyFeatures(), EmptyHead(), nn.Identity(), decoder, latent_dim=0)
    latent_to_decoder = LatentState(decoder.dim, sizes.hidden, initial)
    head = GaussianHead(sizes.hidden, decoder.dim, bias=False)
    initial.weight_(head.linear.weight)
    features = LSTMFeatures(data.vocabulary, sizes.embedding, sizes.hidden, initial)
    return VAE(features, head, latent_to_decoder, decoder, decoder.dim)
