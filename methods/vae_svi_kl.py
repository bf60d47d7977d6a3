"""VAE+SVI+KL: as ``vae_svi``, but the encoder learns to match the refined posterior.

Loss:      the ELBO's at λ_K for the decoder; KL(q_0 || q_K), with q_K fixed, for the encoder.
           (ablation of Kim et al., ICML 2018)
Defaults:  as ``sa_vae``.
Deviates:  clipping is per example, as in ``sa_vae``.
"""

from torch import Tensor

from bench.method import Context, DataInfo, ELBOTerms, Range, TrainConfig
from bench.models.distributions import gaussian_kl

from .parts.refinement import STEP_COST
from .vae_svi import VAEWithSVI


class VAEWithSVIAndKL(VAEWithSVI):
    title = "VAE + SVI + KL"
    summary = "encoder trained to match the posterior refined by SVI"
    marker = "triangle_right"
    table_order = 43
    revision = 2
    incompatible_with = {"kl_term": "the KL to the prior trains neither its encoder nor its decoder"}
    space = {"lr": Range(0.1, 2.0), "momentum": Range(0.0, 0.9, log=False)}

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.2 + STEP_COST * self.config.steps

    def encoder_loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return gaussian_kl(terms.extra["initial"], terms.q).mean()
