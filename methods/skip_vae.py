"""Skip-VAE: z enters every layer of the decoder.

Loss:      the basic VAE's. Text: z is also concatenated to the LSTM's output, before the vocabulary layer. Images: the
           feature maps of z that enter layer 0 also enter the first 1×1 convolution of every residual block.
           (Dieng et al., AISTATS 2019)
Defaults:  weights shared with the basic VAE start as the basic VAE's.
Deviates:  –
"""

import torch
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Method
from bench.models.image import LatentProjection, MaskedCNNDecoder, conv
from bench.models.text import LSTMDecoder, uniform_


class LatentReadout(nn.Module):
    """States (N, T, H) and code (N, D + H) -> states and z (N, T, H + D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, states: Tensor, code: Tensor) -> Tensor:
        z = code[:, : self.dim].unsqueeze(1).expand(-1, states.shape[1], -1)
        return torch.cat([states, z.to(states.dtype)], dim=-1)


class SkipProjection(nn.Module):
    """z (N, D) -> biases of layer 0 and of every block, concatenated over channels (N, C + blocks · C // 2, H, W)."""

    def __init__(self, layer_projection: LatentProjection, decoder: MaskedCNNDecoder) -> None:
        super().__init__()
        self.layer_projection = layer_projection
        channels = len(decoder.blocks) * (decoder.channels // 2)
        self.block_projection = conv(layer_projection.shape[0], channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        maps = self.layer_projection.linear(z).unflatten(1, self.layer_projection.shape)
        return torch.cat([self.layer_projection(z), self.block_projection(maps)], dim=1)


class SkipVAE(Method):
    summary = "z enters every layer of the decoder"
    citation = "Dieng et al., AISTATS 2019"
    family = "decoder"
    table_order = 91
    vae_settings = "z always enters every layer"

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if data.modality == "text":
            extend_output(model.decoder, model.latent_dim)
        else:
            model.latent_to_decoder = SkipProjection(model.latent_to_decoder, model.decoder)
        return model


def extend_output(decoder: LSTMDecoder, dim: int) -> None:
    """Let the vocabulary layer read z of ``dim`` dimensions in addition to the states."""
    basic, decoder.readout = decoder.output, LatentReadout(dim)
    decoder.output = nn.Linear(decoder.hidden + dim, basic.out_features, bias=False)
    uniform_(decoder.output.weight)
    with torch.no_grad():
        decoder.output.weight[:, : decoder.hidden] = basic.weight
