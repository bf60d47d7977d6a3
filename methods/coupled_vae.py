"""Coupled-VAE: a deterministic autoencoder that shares the encoder guides the decoder's first layer.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) - λ_r log p_c(x|z_c) + λ_m d(init(z), stopgrad init_c(z_c))
           z_c: a second head on the shared features; p_c: a second decoder; init: the first layer after z; d: minus the
           sum of inverse multiquadric kernels over seven scales.                               (Wu et al., ACL 2020)
Defaults:  λ_r = 1, λ_m = 0.1.
Deviates:  –
Note:      The autoencoder is not part of p(x): no metric includes it, but the cost does.
"""

from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Method, TrainConfig, check_ranges

from .parts.mmd import multiquadric


class CoupledVAE(Method):
    summary = "guided by a deterministic autoencoder with a shared encoder"
    citation = "Wu et al., ACL 2020"
    table_order = 75
    vae_settings = {"reconstruction": 0.0, "match": 0.0}

    @dataclass(frozen=True)
    class Config:
        reconstruction: float = 1.0  # λ_r
        match: float = 0.1  # λ_m

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="reconstruction match")

    @property
    def coupled(self) -> bool:
        return self.config.reconstruction > 0 or self.config.match > 0

    def expected_cost(self, train: TrainConfig) -> float:
        return 1.8

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if self.coupled:
            modules = {"head": model.head, "latent_to_decoder": model.latent_to_decoder, "decoder": model.decoder}
            model.aux["twin"] = nn.ModuleDict({name: deepcopy(module) for name, module in modules.items()})
        return model

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        if not self.coupled:
            return super().elbo_terms(ctx, x)
        h = ctx.model.features(x)  # (B, F)
        q, twin_code = ctx.model.head(h), ctx.model.aux["twin"]["head"](h).mean  # (B, D)
        terms = ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))
        terms.extra["twin_code"] = twin_code
        return terms

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss = super().loss(ctx, terms)
        if not self.coupled:
            return loss
        twin = ctx.model.aux["twin"]
        twin_init = twin["latent_to_decoder"](terms.extra["twin_code"])
        init = ctx.model.latent_to_decoder(terms.z[:, 0])
        reconstruction = -twin["decoder"].log_prob(twin_init, terms.x, 1).mean()
        difference = (init - twin_init.detach()).flatten(1)
        distance = -multiquadric(difference.square().sum(1), difference.shape[1]).mean()
        return loss + self.config.reconstruction * reconstruction + self.config.match * distance
