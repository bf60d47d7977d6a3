"""Pooling encoder: the posterior reads all states of the encoder's LSTM, by maximum or mean, and not the last alone.

A remedy for an encoder that forgets how a sentence began, and a control for whether the encoder was too weak. The
objective is the VAE's.
"""

from dataclasses import dataclass

from torch import nn

from bench.data.dataset import PAD
from bench.method import Method, check_ranges


class Pooled(nn.Module):
    def __init__(self, features, pooling):
        super().__init__()
        self.features, self.pooling = features, pooling

    def forward(self, x):
        states, padding = self.features.states(x), (x == PAD).unsqueeze(-1)
        if self.pooling == "max":
            return states.masked_fill(padding, float("-inf")).amax(1)
        return states.masked_fill(padding, 0).sum(1) / (~padding).sum(1)


class PoolingEncoder(Method):
    summary = "posterior from all encoder states, pooled"
    citation = "Long et al., 2019 (arXiv 1911.03976)"
    family = "posterior"
    table_order = 88
    modalities = ("text",)
    vae_settings = "it reads other features"

    @dataclass(frozen=True)
    class Config:
        pooling: str = "max"

        def __post_init__(self):
            check_ranges(self, pooling=("max", "mean"))

    def build(self, model, data):
        model.features = Pooled(model.features, self.config.pooling)
        return model
