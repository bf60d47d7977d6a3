"""VampPrior: a mixture of the encoder's posteriors at learned pseudo-inputs as the prior.

Loss:      the basic VAE's, with p(z) = 1/K Σ_k q(z|u_k) and u_k trained with the decoder; the KL is estimated from the
           sample of the reconstruction.                                        (Tomczak & Welling, AISTATS 2018)
Defaults:  K = 500, as the authors'; fewer in the reduced presets.
Deviates:  pixels of u_k are the sigmoid of parameters; text has no pixels, so its u_k are encoder features.
           Pseudo-images are encoded with the encoder's running statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bench.method import VAE, DataInfo, Gaussian, Method, check_ranges

from .parts.mixture import MixturePrior


class PseudoInputs(MixturePrior):
    """Mixture of the model's posteriors at parameters of ``shape``: images (K, 1, H, W) or features (K, F)."""

    def __init__(self, model: VAE, shape: Sequence[int], pixels: bool) -> None:
        super().__init__(model.latent_dim)
        self.encoder = (model.features, model.head)  # a tuple, so that they are not registered as submodules here
        self.inputs = nn.Parameter(torch.randn(shape))
        self.pixels = pixels
        self.cached: Gaussian | None = None  # in evaluation mode

    def train(self, mode: bool = True) -> nn.Module:
        self.cached = None
        return super().train(mode)

    def components(self) -> Gaussian:
        if self.training:
            return self.encode()
        if self.cached is None:
            with torch.no_grad():
                self.cached = self.encode()
        return self.cached

    def encode(self) -> Gaussian:
        """Return the posteriors at the pseudo-inputs (K, D)."""
        features, head = self.encoder
        if not self.pixels:
            return head(self.inputs)
        training = features.training
        features.eval()
        try:
            return head(features(self.inputs.sigmoid()))
        finally:
            features.train(training)


class VampPrior(Method):
    summary = "mixture of posteriors at learned pseudo-inputs as the prior"
    citation = "Tomczak & Welling, AISTATS 2018"
    family = "prior"
    table_order = 97
    preset_overrides = {"quick": {"components": 50}, "small": {"components": 100}}
    vae_settings = "its prior is learned"

    @dataclass(frozen=True)
    class Config:
        components: int = 500

        def __post_init__(self) -> None:
            check_ranges(self, "components")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        pixels = data.modality == "image"
        shape = (1, *data.shape) if pixels else (model.head.linear.in_features,)
        model.prior = PseudoInputs(model, (self.config.components, *shape), pixels)
        return model
