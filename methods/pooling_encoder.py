"""Pooling encoder: the posterior reads all states of the encoder's LSTM, pooled, instead of the last alone.

Loss:      the basic VAE's, with features from the maximum or mean over states.    (Long et al., 2019, arXiv 1911.03976)
Defaults:  maximum.
Deviates:  –
Note:      A control for an encoder whose last state does not depend on the start of a sentence.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from bench.method import PAD, VAE, Choice, DataInfo, Method, check_ranges


class Pooled(nn.Module):
    """Words (B, T) -> states pooled over time (B, H), without padding."""

    def __init__(self, features: nn.Module, pooling: str) -> None:
        super().__init__()
        self.features, self.pooling = features, pooling

    def forward(self, x: Tensor) -> Tensor:
        states, padding = self.features.states(x), (x == PAD).unsqueeze(-1)  # (B, T, H), (B, T, 1)
        if self.pooling == "max":
            return states.masked_fill(padding, float("-inf")).amax(1)
        return states.masked_fill(padding, 0).sum(1) / (~padding).sum(1)


class PoolingEncoder(Method):
    title = "Pooling encoder"
    summary = "posterior from all encoder states, pooled"
    citation = "Long et al., 2019 (arXiv 1911.03976)"
    family = "posterior"
    marker = "half_down"
    table_order = 88
    modalities = ("text",)
    vae_settings = "its features are always pooled"
    space = {"pooling": Choice(("max", "mean"))}

    @dataclass(frozen=True)
    class Config:
        pooling: str = "max"

        def __post_init__(self) -> None:
            check_ranges(self, pooling=("max", "mean"))

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.features = Pooled(model.features, self.config.pooling)
        return model
