"""LIDVAE: latent variable identifiable by decoders that are injective in z, by Brenier maps.

Text, as the authors': the LSTM reads words alone; its output beside z goes through two Brenier maps T_2(T_1([h_t; z])),
gradients of convex networks and so injective, then the vocabulary layer; z is neither in the inputs nor in the first
state. Images: the maps stand between z and the decoder (a cheaper form, for the masked CNN behind them is not injective
itself). The maps are trained by Adam, for at the learning rates of text's SGD they diverge. The objective is the VAE's.
Identifiable means that no posterior equals the prior; it may still be near it.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.method import Method, check_ranges
from bench.models.text import LSTMDecoder, uniform_

from .parts.brenier import Brenier


class InjectiveReadout(nn.Sequential):
    """States ``[N, T, H]`` and z ``[N, D]`` -> ``[N, T, H + D]``."""

    def forward(self, states, z):
        beside = z.unsqueeze(1).expand(-1, states.shape[1], -1)
        return super().forward(torch.cat([states, beside.to(states.dtype)], dim=-1))


class IdentifiableVAE(Method):
    summary = "decoder injective in z, by Brenier maps"
    citation = "Wang et al., NeurIPS 2021"
    family = "decoder"
    table_order = 92
    vae_settings = "z goes through maps of its own"

    @dataclass(frozen=True)
    class Config:
        inverse_lipschitz: float = 0.0
        lr: float = 1e-3

        def __post_init__(self):
            check_ranges(self, "lr", "inverse_lipschitz")

    def expected_cost(self, train):
        return 1.5

    def param_groups(self, model):
        """The maps have a group of their own, an ``lr`` and an optimiser that do not depend on the modality's."""
        maps = [weight for layer in model.modules() if isinstance(layer, Brenier) for weight in layer.parameters()]
        own = {id(weight) for weight in maps}
        groups = super().param_groups(model)
        others = [weight for weight in groups["decoder"]["params"] if id(weight) not in own]
        return groups | {
            "decoder": {"params": others},
            "maps": {"params": maps, "optimiser": "adam", "lr": self.config.lr},
        }

    def maps(self, dim):
        return [Brenier(dim, self.config.inverse_lipschitz) for _ in range(2)]

    def build(self, model, data):
        if data.modality == "image":
            model.latent_to_decoder = nn.Sequential(*self.maps(model.latent_dim), model.latent_to_decoder)
            return model
        model.latent_to_decoder, model.decoder = nn.Identity(), self.text_decoder(model.decoder, model.latent_dim)
        return model

    def text_decoder(self, plain, dim):
        """A decoder that reads words alone; weights that both have begin as the basic VAE's."""
        (words, embedding), hidden = plain.embedding.weight.shape, plain.hidden
        decoder = LSTMDecoder(words, embedding, hidden, 0, plain.dropout, plain.longest)
        weights = {name: weight for name, weight in plain.state_dict().items() if not name.startswith("output")}
        weights["lstm.weight_ih_l0"] = weights["lstm.weight_ih_l0"][:, :embedding]
        decoder.load_state_dict(weights, strict=False)
        decoder.output = nn.Linear(hidden + dim, words, bias=False)
        uniform_(decoder.output.weight)
        decoder.readout = InjectiveReadout(*self.maps(hidden + dim))
        return decoder
