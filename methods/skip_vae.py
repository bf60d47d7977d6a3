"""Skip-VAE: z enters every layer of the decoder.

Loss:      the basic VAE's. Text: z is also concatenated to the states that the vocabulary layer reads. Images:
           feature maps of z, by a linear layer of its own for each, enter the first 1×1 convolution of every residual
           block of the main path and the last 1×1 convolution, which gives the logits. (Dieng et al., AISTATS 2019)
Defaults:  weights shared with the basic VAE start as the basic VAE's; for a block, as many feature maps as
           layer 0 has, and one for the logits.
Deviates:  the authors' masked CNN has gated layers without blocks, each of which reads the maps.
Note:      Compared with yoonkim/skip-vae: models_img_skip.py, models_text_skip.py.
"""

import torch
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Method
from bench.models.architectures.masked_cnn import LatentProjection, MaskedCNNDecoder
from bench.models.decoding import TextDecoder


class LatentReadout(nn.Module):
    """States (N, T, H) and code (N, D + H) -> states and z (N, T, H + D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, states: Tensor, code: Tensor) -> Tensor:
        z = code[:, : self.dim].unsqueeze(1).expand(-1, states.shape[1], -1)
        return torch.cat([states, z.to(states.dtype)], dim=-1)


class SkipProjection(nn.Module):
    """z (N, D) -> its contributions to layer 0, every block and the logits: (N, C + blocks · C // 2 + 1, H, W)."""

    def __init__(self, first: LatentProjection, decoder: MaskedCNNDecoder) -> None:
        super().__init__()
        dim, maps, size = first.linear.in_features, first.shape[0], decoder.image_size
        half = decoder.arguments[0] // 2
        self.first = first
        self.blocks = nn.ModuleList(LatentProjection(dim, maps, size, half, 1) for _ in decoder.blocks)
        self.logits = nn.Linear(dim, size * size)  # one map, and its weight in the convolution
        nn.init.xavier_uniform_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.shape = (1, size, size)

    def forward(self, z: Tensor) -> Tensor:
        logits = self.logits(z).unflatten(1, self.shape)
        return torch.cat([self.first(z), *(projection(z) for projection in self.blocks), logits], dim=1)


class SkipDecoder(MaskedCNNDecoder):
    """A masked CNN for the codes of ``SkipProjection``."""

    def logits(self, code: Tensor, image: Tensor) -> Tensor:
        channels = self.arguments[0]
        layer, *blocks, logits = code.split([channels, *[channels // 2] * len(self.blocks), 1], dim=1)
        return self(layer + image, blocks) + logits


class SkipVAE(Method):
    title = "Skip-VAE"
    summary = "z enters every layer of the decoder"
    citation = "Dieng et al., AISTATS 2019 (arXiv 1807.04863)"
    family = "decoder"
    modalities = ("image", "text")
    models = ("lstm", "transformer", "masked_cnn")
    marker = "bowtie"
    table_order = 91
    revision = 2
    vae_settings = "z always enters every layer"

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if data.modality == "text":
            extend_output(model.decoder, model.latent_dim)
        else:
            model.latent_to_decoder = SkipProjection(model.latent_to_decoder, model.decoder)
            decoder = SkipDecoder(*model.decoder.arguments)
            decoder.load_state_dict(model.decoder.state_dict())
            model.decoder = decoder
            model.to(memory_format=torch.channels_last)
        return model


def extend_output(decoder: TextDecoder, dim: int) -> None:
    """Let the vocabulary layer read z of ``dim`` dimensions in addition to the states."""
    basic, decoder.readout = decoder.output, LatentReadout(dim)
    decoder.output = nn.Linear(decoder.hidden + dim, basic.out_features, bias=False)
    decoder.initial.weight_(decoder.output.weight)
    with torch.no_grad():
        decoder.output.weight[:, : decoder.hidden] = basic.weight
