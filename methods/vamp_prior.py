"""VampPrior: a mixture of the encoder's posteriors at learned pseudo-inputs as the prior.

Loss:      the basic VAE's, with p(z) = 1/K Σ_k q(z|u_k) and u_k trained with the decoder; the KL is estimated from the
           sample of the reconstruction.                                        (Tomczak & Welling, AISTATS 2018)
Defaults:  K = 500, as the authors'; fewer in the reduced presets. Pseudo-images start at training images, which the
           authors have as an option.
Deviates:  pixels of u_k are the sigmoid of parameters, not clamped parameters. The authors' encoder has no BatchNorm:
           ours encodes pseudo-images with its running statistics, which start at those of the same training images.
           Text has no pixels, so its u_k are encoder features; they start at N(0, I), because the features of training
           sentences are nearly equal before training. So are those of vectors, whose values may be counts.
Note:      Compared with jmtomczak/vae_vampprior: models/Model.py, models/VAE.py, utils/load_data.py.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.method import VAE, Context, DataInfo, Gaussian, Method, Range, TrainConfig, check_ranges

from .parts.batch_norm import average_statistics
from .parts.mixture import MixturePrior

PIXELS = (0.05, 0.95)  # range of the pixels of pseudo-images at the start


class PseudoInputs(MixturePrior):
    """Mixture of the model's posteriors at parameters of ``shape``: images (K, 1, H, W) or features (K, F)."""

    def __init__(self, model: VAE, shape: Sequence[int], pixels: bool) -> None:
        super().__init__(model.latent_dim)
        # The networks without their weights, in evaluation mode whatever the mode of the model is.
        skeleton = copy.deepcopy(model.features).to("meta").eval()
        self.encoder = (model.features, skeleton, model.head)  # a tuple, so that they are not submodules of the prior
        self.inputs = nn.Parameter(torch.randn(shape))
        self.pixels = pixels
        self.cached: Gaussian | None = None  # in evaluation mode

    @torch.no_grad()
    def start_at(self, images: Tensor) -> None:
        """Set the pseudo-images to images (K, 1, H, W)."""
        self.inputs.copy_(images.clamp(*PIXELS).logit())

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
        features, skeleton, head = self.encoder
        if not self.pixels:
            return head(self.inputs)
        weights = {**dict(features.named_parameters()), **dict(features.named_buffers())}
        return head(functional_call(skeleton, weights, (self.inputs.sigmoid(),)))


class VampPrior(Method):
    title = "VampPrior"
    summary = "mixture of posteriors at learned pseudo-inputs as the prior"
    citation = "Tomczak & Welling, AISTATS 2018 (arXiv 1705.07120)"
    family = "prior"
    marker = "star8"
    table_order = 97
    revision = 2
    preset_overrides = {"quick": {"components": 50}, "small": {"components": 100}}
    vae_settings = "its prior is learned"
    space = {"components": Range(10, 500)}

    @dataclass(frozen=True)
    class Config:
        components: int = 500

        def __post_init__(self) -> None:
            check_ranges(self, "components")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1 + (0.2 * self.config.components / train.batch_size if data.modality == "image" else 0.1)

    def build(self, model: VAE, data: DataInfo) -> VAE:
        pixels = data.modality == "image"
        shape = data.shape if pixels else (model.head.linear.in_features,)
        channels = (1,) if pixels and len(shape) == 2 else ()
        model.prior = PseudoInputs(model, (self.config.components, *channels, *shape), pixels)
        return model

    def on_phase_start(self, ctx: Context) -> None:
        if ctx.model.prior.pixels:
            count = math.ceil(self.config.components / ctx.train.batch_size)
            batches = [ctx.next_batch() for _ in range(count)]
            images = torch.cat(batches)[: self.config.components]
            if (images == images[0]).all():
                raise ValueError("all training images are equal: their statistics normalise no other image")
            norms = [layer for layer in ctx.model.features.modules() if isinstance(layer, nn.BatchNorm2d)]
            average_statistics(norms, ctx.model.features, batches)
            ctx.model.prior.start_at(images)
