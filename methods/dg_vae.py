"""DG-VAE: the density gap between the batch's aggregate posterior and the prior replaces the KL of each example.

Loss:      E_q[-log p(x|z)] + Σ_d E_{z ~ q_B}[log q_B(z_d) - log p(z_d)], with q_B(z_d) the mean of q(z_d|x) over the
           batch, estimated from ``samples`` draws per example.                         (Zhang et al., NeurIPS 2022)
Defaults:  32 samples per example.
Deviates:  the whole batch is one aggregate (the authors' |b| = B); an aggregate of one example would be the VAE.
Note:      Weights are selected by this loss on validation, as in zhangjf-nlp/DG-VAEs:modules/vae.py: the ELBO counts
           the mutual information that the method leaves free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.method import Context, DataInfo, ELBOTerms, Method, Phase, TrainConfig, check_ranges
from bench.models.distributions import LOG_2PI


class DensityGapVAE(Method):
    title = "DG-VAE"
    summary = "KL of the batch's aggregate posterior, per dimension"
    citation = "Zhang et al., NeurIPS 2022 (arXiv 2211.00321)"
    marker = "triangle_left"
    table_order = 70
    revision = 2
    incompatible_with = {"kl_term": "it has its own KL term"}
    vae_settings = "its KL is that of the batch's aggregate posterior"

    @dataclass(frozen=True)
    class Config:
        samples: int = 32  # per example

        def __post_init__(self) -> None:
            check_ranges(self, "samples")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.6  # its densities are no products of matrices: FLOPs do not count them

    def phases(self) -> Sequence[Phase]:
        return (Phase(selection_metric="loss"),)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        terms = super().elbo_terms(ctx, x)
        terms.extra["aggregate"] = terms.q.rsample(self.config.samples, ctx.generator("aggregate"))  # (B, M, D)
        return terms

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        z, q = terms.extra["aggregate"].flatten(0, 1), terms.q  # (B·M, D)
        squared = (z.unsqueeze(1) - q.mean).square() * (-q.logvar).exp()  # (B·M, B, D)
        log_aggregate = (-0.5 * (squared + q.logvar + LOG_2PI)).logsumexp(1) - math.log(len(q.mean))  # (B·M, D)
        return (log_aggregate + 0.5 * (z.square() + LOG_2PI)).mean(0).sum()
