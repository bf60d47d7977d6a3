"""Importance-weighted autoencoder: a tighter bound from several samples, under which q need not be the posterior.

L = -E log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q. Its bound rises with K towards log p(x). Weights are selected
by it on validation: the ELBO, one sample's, may fall without end, since the best of K does not mind the others.
"""

import math
from dataclasses import dataclass

from bench.method import ELBOTerms, Method, Phase, check_ranges


class ImportanceWeightedAutoencoder(Method):
    summary = "importance-weighted bound of K samples"
    citation = "Burda et al., ICLR 2016"
    table_order = 77
    revision = 2
    display_params = ("samples",)
    incompatible_with = {
        "schedule": "its bound has no KL term that a weight could change",
        "kl_term": "its bound has no KL term",
    }
    vae_settings = "with one sample its KL is an estimate from that sample"

    @dataclass(frozen=True)
    class Config:
        samples: int = 5

        def __post_init__(self):
            check_ranges(self, "samples")

    def expected_cost(self, train):
        return 0.3 + 0.7 * self.config.samples

    def phases(self):
        return (Phase(selection_metric="loss"),)

    def elbo_terms(self, ctx, x):
        q = self.posterior(ctx, x, train=True)
        return ELBOTerms.from_samples(ctx.model, x, q, q.rsample(self.config.samples, ctx.generator()))

    def loss(self, ctx, terms):
        log_weights = ctx.model.prior.log_prob(terms.z) - terms.q.log_prob(terms.z) - terms.rec
        return -(log_weights.logsumexp(1) - math.log(terms.z.shape[1])).mean()
