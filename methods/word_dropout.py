"""Word dropout: the decoder reads <unk> instead of a word with probability ``rate``.

Loss:      the basic VAE's. In training only; the encoder's input and the targets are unchanged, and <s> is always read.
           (Bowman et al., CoNLL 2016)
Defaults:  rate 0.25; Bowman et al. compare rates from 0 to 1, where the decoder reads no words.
Deviates:  –
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.method import START, UNKNOWN, VAE, DataInfo, Method, Range, check_ranges


class WordDropoutEmbedding(nn.Embedding):
    """The embedding ``other``, reading random words as <unk> in training: (N, T) -> (N, T, E)."""

    def __init__(self, other: nn.Embedding, rate: float) -> None:
        super().__init__(*other.weight.shape, _weight=other.weight)
        self.rate = rate

    def forward(self, words: Tensor) -> Tensor:
        if self.training and self.rate:
            dropped = (torch.rand(words.shape, device=words.device) < self.rate) & (words != START)
            words = words.masked_fill(dropped, UNKNOWN)
        return super().forward(words)


class WordDropout(Method):
    title = "Word dropout"
    summary = "decoder inputs replaced by <unk> at random"
    citation = "Bowman et al., CoNLL 2016 (arXiv 1511.06349)"
    family = "decoder"
    marker = "hourglass"
    table_order = 90
    modalities = ("text",)
    display_params = ("rate",)
    vae_settings = {"rate": 0.0}
    space = {"rate": Range(0.05, 0.75)}

    @dataclass(frozen=True)
    class Config:
        rate: float = 0.25

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="rate", at_most_one="rate")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.decoder.embedding = WordDropoutEmbedding(model.decoder.embedding, self.config.rate)
        return model
