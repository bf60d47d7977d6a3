"""Dilated CNN for text (Yang et al., ICML 2017, arXiv 1702.08139): a decoder that reads a fixed number of words.

Each residual block has a causal convolution of three words at a distance of its dilation, between two 1×1
convolutions, which halve and restore the channels. The prediction of a word depends on z and on the ``receptive_field``
words before it: 1 + 2 · Σ dilations. 15 words, with the dilations 1, 2, 4, are the paper's SCNN, 63 its MCNN. The
encoder is the LSTM of ``lstm``.

z is concatenated with every word's embedding, as in the paper. Blocks have as many channels as the LSTM has units, and
start with a layer normalisation, which the paper does not describe. Dropout is that of ``lstm``. Weights start
at U(±1/√inputs) and embeddings at N(0, 1), whatever ``initialisation`` says.

Shapes: N rows (B examples × S samples), T words, C channels, E embedding units, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.core.config import TextModelConfig
from bench.data.dataset import DataInfo
from bench.models.architectures.lstm import Initialisation, embed_time_major, with_lstm_encoder
from bench.models.architectures.masked_cnn import check_receptive_field
from bench.models.decoding import State, TextDecoder
from bench.models.vae import VAE

SUMMARY = "LSTM encoder and dilated CNN decoder of Yang et al. (2017)"
MODALITY = "text"
TRAIN = {"optimiser": "adam", "lr": 2e-3}
KERNEL = 3  # words that a convolution reads


@dataclass(frozen=True)
class Config:
    """Settings of the decoder."""

    receptive_field: int = 15  #: Number of words that a prediction depends on.

    def __post_init__(self) -> None:
        check_receptive_field(self.receptive_field, least=1)

    @property
    def dilations(self) -> list[int]:
        """Dilations 1, 2, 4, … of the blocks; the last one is smaller if less is left of the receptive field."""
        dilations: list[int] = []
        left = self.receptive_field // 2
        while left:
            dilations.append(min(2 ** len(dilations), left))
            left -= dilations[-1]
        return dilations


class Block(nn.Module):
    """A residual block with one dilated convolution, computed as a linear layer over its three inputs."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.dilation, self.inner, self.reach = dilation, inner, dilation * (KERNEL - 1)
        self.norm = nn.LayerNorm(channels)
        self.reduce, self.expand = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.convolution = nn.Linear(KERNEL * inner, inner)

    def forward(self, h: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs for inputs (T, N, C), and the ``past`` of the next word.

        ``past`` (reach, N, C // 2) has the inputs of the convolution before these; at the start they are zeros.
        """
        inputs = torch.cat([past, self.reduce(self.norm(h)).relu()])
        words = [inputs[first : first + len(h)] for first in range(0, self.reach + 1, self.dilation)]
        return h + self.expand(self.convolution(torch.cat(words, dim=-1)).relu()), inputs[len(h) :]


class DilatedCNNDecoder(TextDecoder):
    """p(x|z), word by word. Codes (N, D + C): z, and the product with its part of the first layer's weight."""

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        channels: int,
        dim: int,
        dropout: float,
        longest: int,
        settings: Config,
        initial: Initialisation,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.inputs = nn.Linear(embedding, channels)
        self.blocks = nn.ModuleList(Block(channels, dilation) for dilation in settings.dilations)
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, vocabulary, bias=False)
        self.dim, self.hidden, self.dropout, self.longest, self.initial = dim, channels, dropout, longest, initial

    def start(self, code: Tensor) -> State:
        """Return the past of every block, (reach, N, C // 2)."""
        return tuple(code.new_zeros(block.reach, len(code), block.inner) for block in self.blocks)

    def states(self, words: Tensor, code: Tensor, state: State, samples: int = 1) -> tuple[Tensor, State]:
        h = self.inputs(self.drop_units(embed_time_major(self.embedding, words), samples).transpose(0, 1))  # (T, N, C)
        if self.dim:
            h = h + code[:, self.dim :]
        pasts = []
        for block, past in zip(self.blocks, state, strict=True):
            h, past = block(h, past)
            pasts.append(past)
        return self.read(self.drop_units(self.norm(h).transpose(0, 1), samples), code), tuple(pasts)


def build(settings: Config, sizes: TextModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model; without a latent, the decoder's language model alone."""
    units = (sizes.embedding, sizes.hidden)
    initial = Initialisation(sizes.hidden**-0.5, normal_embeddings=True)
    dim = sizes.latent_dim if latent else 0
    decoder = DilatedCNNDecoder(data.vocabulary, *units, dim, sizes.dropout, data.shape[0], settings, initial)
    return with_lstm_encoder(decoder, sizes, data, initial)
