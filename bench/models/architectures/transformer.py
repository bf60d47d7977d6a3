"""Transformer for text: an encoder over the whole sentence and a causal decoder, pre-norm, with sinusoidal positions.

z enters the decoder in the two ways of Optimus (Li et al., EMNLP 2020, arXiv 2004.04092), there found best together: a
linear map of z gives an offset of every word's embedding, and in each layer a key and a value, which every position
attends to beside the words before it; there, key and value are one vector. The encoder's feature is its state at
``<s>``, as there, which depends on all words. Both networks start from random weights, as the other models here do;
Optimus starts from BERT and GPT-2.

Dropout is that of ``lstm``: of the decoder's embeddings and of the states that the vocabulary layer reads. There are no
biases. Weights start at U(±1/√inputs) and embeddings at N(0, 1), whatever ``initialisation`` says.

With ``width`` None, encoder and decoder have about as many parameters as those of ``lstm`` at the same preset.

Shapes: N rows (B examples × S samples), T words, P keys before them, W units, D latent dimensions, V words of the
vocabulary.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.core.config import TextModelConfig, check_ranges
from bench.data.dataset import PAD, DataInfo
from bench.models.architectures.lstm import Initialisation, LatentState
from bench.models.decoding import State, TextDecoder
from bench.models.vae import VAE, EmptyFeatures, EmptyHead, GaussianHead

SUMMARY = "Transformer encoder and decoder; z enters as in Optimus"
MODALITY = "text"
TRAIN = {"optimiser": "adam", "lr": 3e-3}

ALL = slice(None)  # all words


@dataclass(frozen=True)
class Config:
    """Sizes of encoder and decoder, each."""

    layers: int = 2
    heads: int = 2
    width: int | None = None  #: A multiple of 2 and of ``heads``. None: as many parameters as the LSTM's.

    def __post_init__(self) -> None:
        check_ranges(self, "layers heads width")
        if self.width is not None and self.width % (multiple := math.lcm(2, self.heads)):
            raise ValueError(f"'width' must be a multiple of {multiple}, not {self.width}")


class Attention(nn.Module):
    """Attention of words to themselves and to earlier keys, with several heads.

    Within ``second_order`` it can be differentiated twice, which the fused kernels cannot.
    """

    second_order = False

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.output = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, mask: Tensor, past: State = (), reading: slice = ALL) -> tuple[Tensor, State]:
        """Return outputs (N, R, W), and all keys and values (heads, N, P + T, W / heads).

        Args:
            h: Words (N, T, W).
            mask: Which keys a word reads, broadcast to (heads, N, R, P + T).
            past: Earlier keys and values (heads, N, P, W / heads), if any.
            reading: The R words that have an output.
        """
        queries, keys, values = self.inputs(h).unflatten(2, (3, self.heads, -1)).permute(2, 3, 0, 1, 4)
        if past:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        with sdpa_kernel(SDPBackend.MATH) if self.second_order else nullcontext():
            read = F.scaled_dot_product_attention(queries[:, :, reading], keys, values, mask)
        return self.output(read.permute(1, 2, 0, 3).flatten(2)), (keys, values)


class Layer(nn.Module):
    """Attention, then an MLP for every word; each reads normalised inputs, and its outputs are added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.ReLU(), nn.Linear(4 * width, width, bias=False)
        )

    def forward(self, h: Tensor, mask: Tensor, past: State = (), reading: slice = ALL) -> tuple[Tensor, State]:
        """Return words (N, R, W), and keys and values; see ``Attention.forward``."""
        read, state = self.attention(self.norms[0](h), mask, past, reading)
        h = h[:, reading] + read
        return h + self.mlp(self.norms[1](h)), state


class TransformerFeatures(nn.Module):
    """Words (B, T) -> the encoder's state at ``<s>`` (B, W)."""

    def __init__(self, vocabulary: int, width: int, settings: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, settings.heads) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width, bias=False)

    def states(self, x: Tensor, reading: slice = ALL) -> Tensor:
        """Return the states of the words ``reading`` (B, R, W), by default all; each depends on the whole sentence."""
        h, mask = embed(self.embedding, x), (x != PAD)[None, :, None]
        *layers, last = self.layers
        for layer in layers:
            h, _ = layer(h, mask)
        return self.norm(last(h, mask, reading=reading)[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.states(x, slice(0, 1)).squeeze(1)


class TransformerDecoder(TextDecoder):
    """p(x|z), word by word. Codes (N, D + W + 2 · layers · W): z, an offset, and a key and a value of each layer.

    With ``dim`` 0 offset, keys and values are zeros: the decoder of a VAE that ignores z.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        dim: int,
        dropout: float,
        longest: int,
        settings: Config,
        initial: Initialisation,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, settings.heads) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.dim, self.hidden, self.dropout, self.longest = dim, width, dropout, longest
        self.heads, self.initial = settings.heads, initial  # for the weights that a method adds

    def start(self, code: Tensor) -> State:
        """Return keys and values of every layer in turn, each (heads, N, 1, W / heads)."""
        count = 2 * len(self.layers)
        if not self.dim:
            return count * (self.output.weight.new_zeros(self.heads, len(code), 1, self.hidden // self.heads),)
        memory = code[:, self.dim + self.hidden :].unflatten(1, (count, self.heads, 1, -1))
        return memory.permute(1, 2, 0, 3, 4).unbind()

    def states(self, words: Tensor, code: Tensor, state: State, samples: int = 1) -> tuple[Tensor, State]:
        past = state[0].shape[2]  # keys, of which the first is that of z
        h = embed(self.embedding, words, past - 1)
        if self.dim:
            h = h + code[:, self.dim : self.dim + self.hidden].unsqueeze(1)
        h = self.drop_units(h, samples)
        mask = torch.ones(h.shape[1], past + h.shape[1], dtype=torch.bool, device=h.device).tril(past)
        present: State = ()
        for i, layer in enumerate(self.layers):
            h, keys_values = layer(h, mask, state[2 * i : 2 * i + 2])
            present += keys_values
        return self.read(self.drop_units(self.norm(h), samples), code), present


def embed(embedding: nn.Embedding, words: Tensor, first: int = 0) -> Tensor:
    """Return embeddings (N, T, W) of words (N, T), the first of which has the position ``first``."""
    h = embedding(words)
    count, width = h.shape[1:]
    rates = torch.exp(torch.arange(0, width, 2, device=h.device) * (-math.log(10_000) / width))
    angles = torch.arange(first, first + count, device=h.device).unsqueeze(1) * rates
    return h + torch.cat([angles.sin(), angles.cos()], dim=1).to(h.dtype)


def lstm_width(settings: Config, sizes: TextModelConfig, vocabulary: int) -> int:
    """Return the width at which both networks together have at most the parameters of the LSTMs at these sizes.

    Counted are three matrices of words and 12 W² for each layer.
    """
    units, hidden, dim = sizes.embedding, sizes.hidden, sizes.latent_dim
    lstms = vocabulary * (2 * units + hidden) + 4 * hidden * (2 * units + 2 * hidden + dim)
    square, linear, multiple = 24 * settings.layers, 3 * vocabulary, math.lcm(2, settings.heads)
    width = (math.sqrt(linear**2 + 4 * square * lstms) - linear) / (2 * square)
    return max(multiple, int(width) // multiple * multiple)


def build(settings: Config, sizes: TextModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, the decoder's language model alone."""
    width = settings.width or lstm_width(settings, sizes, data.vocabulary)
    initial = Initialisation(width**-0.5, normal_embeddings=True)
    dim = sizes.latent_dim if latent else 0
    decoder = TransformerDecoder(data.vocabulary, width, dim, sizes.dropout, data.shape[0], settings, initial)
    if not latent:
        return VAE(EmptyFeatures(), EmptyHead(), nn.Identity(), decoder, latent_dim=0)
    latent_to_decoder = LatentState(dim, (1 + 2 * settings.layers) * width, initial)
    head = GaussianHead(width, dim, bias=False)
    initial.weight_(head.linear.weight)
    return VAE(TransformerFeatures(data.vocabulary, width, settings), head, latent_to_decoder, decoder, dim)
