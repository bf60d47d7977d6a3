"""LIDVAE: latent-variable identifiability by a decoder that is injective in z, through Brenier maps.

Loss:      the basic VAE's. Text: the LSTM reads words only; its output and z go through two Brenier maps T_2(T_1([h_t;
           z])), gradients of convex networks and hence injective, before the vocabulary layer; z is neither in the
           inputs nor in the initial state. Images: the maps are placed between z and the decoder.
           (Wang et al., NeurIPS 2021)
Defaults:  the maps start near an isometry, and Adam trains them with learning rate 1e-3 on both modalities; at the
           rates of SGD on text they diverge.
Deviates:  on text, the authors' maps have 1,024 hidden units and one more layer, start at U(±0.001), and give the
           logits without a linear layer behind: T_2(B T_1([h_t; z])) with T_2 on R^V and B of full rank, for V words;
           all weights are trained by Adam with learning rate 0.01 and weight decay 1e-5; their LSTM's initial state is
           learned, ours is 0. Images have a cheaper form, because the masked CNN is not injective itself.
Note:      Compared with yixinwang/lidvae-public: sequential_pytorch/src/modules/decoders/dec_lstm.py. Identifiability
           means that no posterior equals the prior; it may still be close to it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Method, ParamGroup, Range, TrainConfig, check_ranges
from bench.models.architectures.lstm import LSTMDecoder

from .parts.brenier import Brenier


class InjectiveReadout(nn.Sequential):
    """States (N, T, H) and z (N, D) -> (N, T, H + D)."""

    def forward(self, states: Tensor, z: Tensor) -> Tensor:
        z = z.unsqueeze(1).expand(-1, states.shape[1], -1)
        return super().forward(torch.cat([states, z.to(states.dtype)], dim=-1))


class IdentifiableVAE(Method):
    title = "LIDVAE"
    summary = "decoder injective in z, by Brenier maps"
    citation = "Wang et al., NeurIPS 2021 (arXiv 2301.00537)"
    family = "decoder"
    modalities = ("image", "text")
    models = ("lstm", "masked_cnn", "gated_pixelcnn", "cnn", "mlp")
    marker = "half_left"
    table_order = 92
    revision = 3
    vae_settings = "z always passes through its maps"
    space = {"inverse_lipschitz": Range(0.0, 0.5, log=False)}

    @dataclass(frozen=True)
    class Config:
        inverse_lipschitz: float = 0.0
        lr: float = 1e-3

        def __post_init__(self) -> None:
            check_ranges(self, "lr", "inverse_lipschitz")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 2.0 if data.modality == "text" else 1.0

    def param_groups(self, model: VAE) -> dict[str, ParamGroup]:
        """Put the maps into a group with their own optimiser and learning rate."""
        maps = [weight for layer in model.modules() if isinstance(layer, Brenier) for weight in layer.parameters()]
        map_ids = {id(weight) for weight in maps}
        groups = super().param_groups(model)
        groups["decoder"].params = [weight for weight in groups["decoder"].params if id(weight) not in map_ids]
        groups["maps"] = ParamGroup(maps, optimiser="adam", lr=self.config.lr)
        return groups

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if data.modality == "image":
            model.latent_to_decoder = nn.Sequential(*self.maps(model.latent_dim), model.latent_to_decoder)
        else:
            model.latent_to_decoder = nn.Identity()
            model.decoder = self.text_decoder(model.decoder, model.latent_dim)
        return model

    def maps(self, dim: int) -> list[Brenier]:
        """Return T_1 and T_2 on R^dim."""
        return [Brenier(dim, self.config.inverse_lipschitz) for _ in range(2)]

    def text_decoder(self, basic: LSTMDecoder, dim: int) -> LSTMDecoder:
        """Return a decoder that reads words only; shared weights start as those of the basic VAE's decoder."""
        (words, embedding), hidden = basic.embedding.weight.shape, basic.hidden
        decoder = LSTMDecoder(words, embedding, hidden, dim=0, dropout=basic.dropout, longest=basic.longest)
        weights = {name: weight for name, weight in basic.state_dict().items() if not name.startswith("output")}
        weights["lstm.weight_ih_l0"] = weights["lstm.weight_ih_l0"][:, :embedding]
        decoder.load_state_dict(weights, strict=False)
        decoder.output = nn.Linear(hidden + dim, words, bias=False)
        basic.initial.weight_(decoder.output.weight)
        decoder.readout = InjectiveReadout(*self.maps(hidden + dim))
        return decoder
