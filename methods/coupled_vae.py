"""Coupled-VAE: the decoder's first layer is matched to that of a deterministic autoencoder with the same encoder.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) - λ_r log p_c(x|z_c) + λ_m d(init(z), stopgrad init_c(z_c))
           z_c: a second head on the shared features; p_c: a second decoder; init: the first layer after z, of text W z;
           d: minus the sum of inverse multiquadric kernels over seven scales.                  (Wu et al., ACL 2020)
Defaults:  λ_r = 1, λ_m = 0.1 and kernels of width 2 D s, the authors' (ChenWu98/Coupled-VAE:Coupled-VAE/Experiment.py).
Deviates:  the authors' init is an MLP of two layers, which all inputs of the decoder pass through. Their second head,
           init and decoder have independent initial weights; here they start as copies of the first. They raise the
           weight of the KL from 0 over most of the training: ``coupled_vae+anneal``.
Note:      The autoencoder is not part of p(x): no metric includes it, but the cost does.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Method, Range, TrainConfig, check_ranges

from .parts.mmd import multiquadric


class CoupledVAE(Method):
    title = "Coupled-VAE"
    summary = "matched to a deterministic autoencoder with a shared encoder"
    citation = "Wu et al., ACL 2020 (arXiv 2004.09189)"
    marker = "bowtie"
    table_order = 75
    revision = 2
    vae_settings = {"reconstruction": 0.0, "match": 0.0}
    space = {"reconstruction": Range(0.1, 10.0), "match": Range(0.01, 10.0)}

    @dataclass(frozen=True)
    class Config:
        reconstruction: float = 1.0  # λ_r
        match: float = 0.1  # λ_m

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="reconstruction match")

    @property
    def coupled(self) -> bool:
        return self.config.reconstruction > 0 or self.config.match > 0

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
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
        code, projections = terms.extra["twin_code"], (ctx.model.latent_to_decoder, twin["latent_to_decoder"])
        reconstruction = -twin["decoder"].log_prob(projections[1](code), terms.x, 1).mean()
        distance = match_distance(*projections, terms.z[:, 0], code)
        return loss + self.config.reconstruction * reconstruction + self.config.match * distance


def match_distance(projection: Any, twin_projection: Any, z: Tensor, twin_code: Tensor) -> Tensor:
    """Return d of the first linear layers after z (B, D) and after the twin's code (B, D), a scalar."""
    squared = (projection.linear(z) - twin_projection.linear(twin_code).detach()).square().sum(1)  # (B,)
    return -multiquadric(squared, z.shape[1]).mean()
