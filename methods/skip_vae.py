"""Skip-VAE: z enters every layer of the decoder, so that none can forget it on the way.

Text: z is also put beside the LSTM's output, before the vocabulary layer. Images: z's feature maps, those that enter
layer 0, are also put beside the input of every residual block's first 1×1 convolution. The objective is the VAE's.
Weights that both have begin as the basic VAE's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from bench.method import Method
from bench.models.image import MaskedCNNDecoder, conv
from bench.models.text import uniform_


class BesideStates(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, states, code):
        z = code[:, : self.dim].unsqueeze(1).expand(-1, states.shape[1], -1)
        return torch.cat([states, z.to(states.dtype)], dim=-1)


class SharesOfBlocks(nn.Module):
    """z ``[N, D]`` -> its shares of layer 0 and of every block's first convolution, one after another in channels."""

    def __init__(self, latent_maps, channels):
        super().__init__()
        self.of_layer = latent_maps
        self.of_blocks = conv(latent_maps.shape[0], channels, 1)

    def forward(self, z):
        maps = self.of_layer.linear(z).unflatten(1, self.of_layer.shape)
        return torch.cat([self.of_layer(z), self.of_blocks(maps)], dim=1)


class SkipDecoder(MaskedCNNDecoder):
    """The decoder with z's shares of its blocks behind that of layer 0."""

    def image_projection(self, x):
        own = super().image_projection(x)
        return F.pad(own, (0, 0, 0, 0, 0, self.width - own.shape[1]))

    def forward(self, h):
        first, *shares = h.split(self.sizes, dim=1)
        return super().forward(first, shares)


class SkipVAE(Method):
    summary = "z enters every layer of the decoder"
    citation = "Dieng et al., AISTATS 2019"
    family = "decoder"
    table_order = 91
    vae_settings = "its decoder has weights for z in every layer"

    def build(self, model, data):
        (self.text if data.modality == "text" else self.image)(model)
        return model

    def text(self, model):
        decoder, dim = model.decoder, model.latent_dim
        decoder.readout, plain = BesideStates(dim), decoder.output
        decoder.output = nn.Linear(decoder.hidden + dim, plain.out_features, bias=False)
        uniform_(decoder.output.weight)
        with torch.no_grad():
            decoder.output.weight[:, : decoder.hidden] = plain.weight

    def image(self, model):
        decoder = model.decoder
        decoder.__class__ = SkipDecoder  # the same layers, otherwise joined
        channels = decoder.norm.num_features
        decoder.sizes = [channels, *[channels // 2] * len(decoder.blocks)]
        decoder.width = sum(decoder.sizes)
        model.latent_to_decoder = SharesOfBlocks(model.latent_to_decoder, decoder.width - channels)
