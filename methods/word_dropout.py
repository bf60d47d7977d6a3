"""Word dropout: the decoder reads <unk> in place of a word with probability ``rate``, so that it needs z to know it.

In training alone; the encoder, and what is predicted, stay whole, and <s> is always read. Bowman et al. try rates from
0 to 1, where the decoder sees no words at all.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.data.dataset import START, UNKNOWN
from bench.method import Method, check_ranges


class DroppedWords(nn.Embedding):
    """An embedding of words of which some are read as <unk>; it takes over the weight of another."""

    def __init__(self, other, rate):
        super().__init__(*other.weight.shape, _weight=other.weight)
        self.rate = rate

    def forward(self, words):
        if self.training and self.rate:
            dropped = (torch.rand(words.shape, device=words.device) < self.rate) & (words != START)
            words = words.masked_fill(dropped, UNKNOWN)
        return super().forward(words)


class WordDropout(Method):
    summary = "decoder inputs replaced by <unk> at random"
    citation = "Bowman et al., CoNLL 2016"
    family = "decoder"
    table_order = 90
    modalities = ("text",)
    display_params = ("rate",)
    vae_settings = {"rate": 0.0}

    @dataclass(frozen=True)
    class Config:
        rate: float = 0.25

        def __post_init__(self):
            check_ranges(self, not_negative="rate")
            if self.rate > 1:
                raise ValueError(f"'rate' is a probability, at most 1, not {self.rate}")

    def build(self, model, data):
        model.decoder.embedding = DroppedWords(model.decoder.embedding, self.config.rate)
        return model
