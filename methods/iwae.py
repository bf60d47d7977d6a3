"""Importance-weighted autoencoder (IWAE): a tighter bound from K samples, under which q need not be the posterior.

Loss:      -E[log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x)], z_k ~ q(z|x)                      (Burda et al., ICLR 2016)
Defaults:  K = 5.
Deviates:  weights are selected by this bound on validation. The ELBO may fall without limit, because the best of K
           samples does not depend on the others.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from bench.method import Context, DataInfo, ELBOTerms, Range, TrainConfig, check_ranges

from .parts.no_kl import NoKLMethod


class ImportanceWeightedAutoencoder(NoKLMethod):
    title = "IWAE"
    summary = "importance-weighted bound of K samples"
    citation = "Burda et al., ICLR 2016 (arXiv 1509.00519)"
    marker = "thin_diamond"
    table_order = 77
    revision = 2
    display_params = ("samples",)
    footnotes = {}
    vae_settings = "with one sample its KL is estimated from that sample"
    space = {"samples": Range(2, 20)}

    @dataclass(frozen=True)
    class Config:
        samples: int = 5

        def __post_init__(self) -> None:
            check_ranges(self, "samples")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        once, per_sample = (0.5, 0.5) if data.modality == "text" else (0.4, 0.6)
        return once + per_sample * self.config.samples

    def expected_memory(self, train: TrainConfig) -> float:
        return float(self.config.samples)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        q = self.posterior(ctx, x, train=True)
        return ELBOTerms.from_samples(ctx.model, x, q, q.rsample(self.config.samples, ctx.generator()))

    def log_weights(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        """Return log p(x, z_k) - log q(z_k|x) (B, K)."""
        return ctx.model.prior.log_prob(terms.z) - terms.q.log_prob(terms.z) - terms.rec

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return -(self.log_weights(ctx, terms).logsumexp(1) - math.log(terms.z.shape[1])).mean()
