"""Latent reconstruction: the encoder is trained to recover z from the decoder's output.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) + α E_q[|μ(D(z)) - z|²], with μ the mean of q and D(z) the decoder's
           output. α rises linearly from 0 during the first ``ramp`` of the updates.
           (Song, Kim & Lee, 2025, arXiv 2508.12530)
Defaults:  α = 1 and ramp = 0.1: ours, for a KL in summed nats.
Deviates:  the formula is second-hand: neither the authors' code nor the paper beyond its abstract could be read. Their
           decoder makes an image in one step; of an autoregressive decoder, D(z) here is the probability of every pixel
           given the true pixels before it, of another the mean of p(x|z). Not for text: words have no such
           differentiable output.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from bench.method import Context, DataInfo, ELBOTerms, Method, Range, TrainConfig, check_ranges
from bench.models.vae import fixed_statistics


class LatentReconstruction(Method):
    title = "Latent reconstruction"
    summary = "the encoder is trained to recover z from the decoder's output"
    citation = "Song et al., 2025 (arXiv 2508.12530)"
    marker = "wide_diamond"
    table_order = 77.5
    modalities = ("image", "vector")
    vae_settings = {"alpha": 0.0}
    space = {"alpha": Range(0.1, 10.0)}

    @dataclass(frozen=True)
    class Config:
        alpha: float = 1.0
        ramp: float = 0.1

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="alpha ramp")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.15

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        model, q = ctx.model, self.posterior(ctx, x, train=True)
        z = q.rsample(1, ctx.generator())  # (B, 1, D)
        decoder, code = model.decoder, model.latent_to_decoder(z[:, 0])
        if hasattr(decoder, "mean"):
            rec, output = -decoder.log_prob(code, x), decoder.mean(code)  # (B, 1), (B, …)
        else:
            logits = decoder.logits(code, decoder.image_projection(x))  # (B, 1, H, W)
            nats = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
            rec, output = nats.flatten(1).sum(-1, keepdim=True), logits.sigmoid()
        kl_dim, kl = model.prior.kl_dim(q), model.prior.kl(q)
        assert kl is not None
        terms = ELBOTerms(x, q, z, rec, kl, kl_dim)
        if self.config.alpha:
            with fixed_statistics(model.features):
                terms.extra["error"] = (model.encode(output).mean - z[:, 0]).square().sum(-1)  # (B,)
        return terms

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss = super().loss(ctx, terms)
        if not self.config.alpha:
            return loss
        weight = self.config.alpha * min(1.0, ctx.progress / self.config.ramp if self.config.ramp else 1.0)
        return loss + weight * terms.extra["error"].mean()
