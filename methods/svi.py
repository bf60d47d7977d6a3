"""SVI: stochastic variational inference without an encoder, starting from the prior.

Loss:      E_q[-log p(x|z)] + KL at λ_K for the decoder; λ_0 is the prior, with K steps as in ``sa_vae``. Evaluation
           takes the same steps.                       (Hoffman et al., JMLR 2013; baseline of Kim et al., ICML 2018)
Defaults:  K = 20; fewer in the reduced presets.
Deviates:  clipping is per example, as in ``sa_vae``. The evaluation starts from the prior, too; that of Kim et al.
           for text from random means and log-variances.
Note:      There is no inference network that could lag, but if the decoder ignores z, refinement stays at the prior.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.method import Context, DataInfo, Gaussian, Method, Posterior, Range, TrainConfig

from .parts.refinement import STEP_COST, refine
from .vae_svi import VAEWithSVI


class StochasticVI(Method):
    title = "SVI"
    summary = "no encoder; posteriors by SVI from the prior"
    citation = "Hoffman et al., JMLR 2013 (arXiv 1206.7051); as in Kim et al., ICML 2018 (arXiv 1802.02550)"
    family = "posterior"
    marker = "triangle_down"
    table_order = 41
    revision = 2
    preset_overrides = {"quick": {"steps": 3}, "small": {"steps": 5}}
    vae_settings = "it has no encoder"
    incompatible_with = {"kl_term": "the KL of its posteriors does not depend on trained parameters"}
    space = {"lr": Range(0.1, 2.0), "momentum": Range(0.0, 0.9, log=False)}

    @dataclass(frozen=True)
    class Config(VAEWithSVI.Config):
        steps: int = 20

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1 + STEP_COST * self.config.steps

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        like = next(ctx.model.parameters())
        zeros = torch.zeros(len(x), ctx.model.latent_dim, device=like.device, dtype=like.dtype)  # (B, D)
        return refine(ctx, x, Gaussian(zeros, zeros), differentiable=False, **vars(self.config))
