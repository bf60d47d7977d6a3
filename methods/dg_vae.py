"""DG-VAE: the KL of every x gives way to that of the batch's aggregate posterior, the gap between its density and the
prior's.

L = E_q[-log p(x|z)] + Σ_d E_{z ~ q_B} [log q_B(z_d) - log p(z_d)], q_B(z_d) the mean of q(z_d|x) over the batch, from
``samples`` draws of each example. So dimensions may be informative for nothing, as long as they add up to the prior.
The whole batch is one aggregate (the authors' |b| = B); an aggregate of a single example would be the VAE.
"""

import math
from dataclasses import dataclass

from bench.method import Method, check_ranges
from bench.models.distributions import LOG_2PI


class DensityGapVAE(Method):
    summary = "KL of the batch's aggregate posterior, dimension by dimension"
    citation = "Zhang et al., NeurIPS 2022"
    table_order = 70
    incompatible_with = {"kl_term": "it has a form of the KL term of its own"}
    vae_settings = "its KL is that of a batch"

    @dataclass(frozen=True)
    class Config:
        samples: int = 32  # of each example

        def __post_init__(self):
            check_ranges(self, "samples")

    def elbo_terms(self, ctx, x):
        terms = super().elbo_terms(ctx, x)
        terms.extra["aggregate"] = terms.q.rsample(self.config.samples, ctx.generator("aggregate"))
        return terms

    def kl_loss(self, terms):
        z, q = terms.extra["aggregate"].flatten(0, 1), terms.q  # [B·M, D]
        squared = (z.unsqueeze(1) - q.mean).square() * (-q.logvar).exp()  # [B·M, B, D]
        log_aggregate = (-0.5 * (squared + q.logvar + LOG_2PI)).logsumexp(1) - math.log(len(q.mean))
        return (log_aggregate + 0.5 * (z.square() + LOG_2PI)).mean(0).sum()
