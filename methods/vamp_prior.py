"""VampPrior: the prior is the encoder's posterior at learned pseudo-inputs, a mixture that can come near the aggregate.

p(z) = 1/K Σ_k q(z|u_k); the u_k are learned with the decoder: images whose pixels are kept in (0, 1) by a sigmoid, on
text, which has no pixels to learn, encoder features. Pseudo-images are encoded with the encoder's running statistics.
The KL is estimated from the sample that the reconstruction has.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.method import Method, check_ranges

from .parts.mixture import MixturePrior


class PseudoInputs(MixturePrior):
    def __init__(self, model, shape, pixels):
        super().__init__(model.latent_dim)
        self.encoder = (model.features, model.head)  # a tuple, so that they stay the encoder's modules
        self.inputs = nn.Parameter(torch.randn(shape))
        self.pixels, self.known = pixels, None

    def train(self, mode=True):
        self.known = None
        return super().train(mode)

    def components(self):
        if self.training:
            return self.encoded()
        if self.known is None:  # in evaluation they stay what they are
            with torch.no_grad():
                self.known = self.encoded()
        return self.known

    def encoded(self):
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
    summary = "a prior of posteriors at learned pseudo-inputs"
    citation = "Tomczak & Welling, AISTATS 2018"
    family = "prior"
    table_order = 97
    preset_overrides = {"quick": {"components": 50}, "small": {"components": 100}}
    vae_settings = "its prior is learned"

    @dataclass(frozen=True)
    class Config:
        components: int = 500

        def __post_init__(self):
            check_ranges(self, "components")

    def build(self, model, data):
        pixels = data.modality == "image"
        one = (1, *data.shape) if pixels else (model.head.linear.in_features,)
        model.prior = PseudoInputs(model, (self.config.components, *one), pixels)
        return model
