"""Lagrangian VAE: maximal mutual information subject to bounds on the negative ELBO and on the MMD to the prior.

Loss:      min over networks, max over λ_1, λ_2 of
           m E_q[-log p(x|z)] + λ_1 (rec + KL - ε_1) + λ_2 s (MMD²(q(z), p(z)) - ε_2);        (Zhao et al., UAI 2018)
           rec is a bound on the negative mutual information, up to the entropy of the data. For m < 0, which minimises
           mutual information, the first term is |m| KL. The multipliers ascend by RMSprop after every update and stay
           in [0.001, 100]. Phase 1, ``share`` of the updates, trains the basic VAE.
Defaults:  m = 1. ε_1 = None: the basic VAE's mean negative ELBO in the last epoch of phase 1, plus ``margin``. ε_2 =
           0.002, a little above the value for a shift of all means by 0.1 (0.0014 in two dimensions). ``share`` = 0.3,
           ``margin`` = 2 nats. Multipliers start at 1 and have the authors' step size of
           1e-4 for 1.2·10⁶ updates: they change by 1 in 10⁴, about 1 % of these. 1e-2 in the reduced presets: 1 % of
           the 10⁴ of ``small``.
Deviates:  the loss is divided by the weight of rec, which changes nothing for Adam but keeps rec's weight in SGD and
           clipping. The authors (ermongroup/lagvae:methods/lagvae.py) set ε_1 by hand for MNIST (86 to 88), have no
           phase 1, s = 10,000 and a biased MMD with one Gaussian kernel, whose bias alone would exceed their ε_2 of
           5 / s to 8 / s in the batches here; here s = 100 and the MMD is that of ``info_vae``.
Note:      As in the authors' code, the last weights are kept: the ELBO would select those with the least information.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, ELBOTerms, Phase, Range, Schedule, State, check_ranges

from .parts.controller import KLController
from .parts.mmd import SCALES, mmd

MMD_SCALE = 100.0  # s, nats per unit of MMD²
MULTIPLIER_RANGE = (1e-3, 100.0)
MEMORY = 0.9  # of RMSprop


class LagrangianVAE(KLController):
    title = "Lagrangian VAE"
    summary = "maximal mutual information subject to bounds on ELBO and MMD"
    citation = "Zhao et al., UAI 2018 (arXiv 1806.06514)"
    marker = "pentagon_down"
    table_order = 69
    revision = 3
    incompatible_with = {
        "schedule": "its multipliers set the weight of the KL",
        "kl_term": "its multipliers constrain the KL itself",
    }
    preset_overrides = {"quick": {"lr": 1e-2}, "small": {"lr": 1e-2}}
    vae_settings = "its multipliers change in the second phase"
    STATE = ("bound", "total", "count", "multipliers", "squares")
    space = {"mi": Range(0.25, 4.0), "margin": Range(0.5, 8.0)}

    @dataclass(frozen=True)
    class Config:
        mi: float = 1.0  # m, the weight of the mutual information; negative to minimise it
        bound: float | None = None  # ε_1, of the negative ELBO in nats per example; None: from the basic VAE
        margin: float = 2.0  # nats
        mmd: float = 2e-3  # ε_2, of MMD²
        share: float = 0.3  # fraction of the updates for the basic VAE
        lr: float = 1e-4  # of the multipliers

        def __post_init__(self) -> None:
            check_ranges(self, "share lr", "margin mmd", below_one="share")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.bound = torch.tensor(self.config.bound or 0.0)
        self.total, self.count = torch.tensor(0.0), torch.tensor(0.0)  # negative ELBOs of the epoch in phase 1
        self.multipliers, self.squares = torch.ones(2), torch.ones(2)

    def phases(self) -> Sequence[Phase]:
        share = self.config.share
        return Phase("unconstrained", share), Phase("main", 1 - share, selection_metric=None)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        terms = super().elbo_terms(ctx, x)
        prior = ctx.model.prior.sample(len(terms.z), ctx.generator("prior"), terms.z.device)  # (B, D)
        terms.extra["mmd"] = mmd(terms.z[:, 0], prior) / len(SCALES)
        return terms

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        rec, kl = terms.rec.mean(), terms.kl.mean()
        if ctx.phase.name == "unconstrained":
            return rec + kl
        bound_weight, mmd_weight = self.multipliers.to(rec)
        rec_weight = bound_weight + max(self.config.mi, 0)
        kl_weight = bound_weight + max(-self.config.mi, 0)
        return rec + (kl_weight * kl + mmd_weight * MMD_SCALE * terms.extra["mmd"]) / rec_weight

    def measure(self, terms: ELBOTerms) -> Tensor:
        """Return the negative ELBO and the MMD² of a batch (2,)."""
        return torch.stack([terms.rec.mean() + terms.kl.mean(), terms.extra["mmd"]])

    def update_weight(self, ctx: Context, measured: Tensor) -> None:
        negative_elbo, divergence = measured
        if ctx.phase.name == "unconstrained":
            self.total, self.count = self.total + negative_elbo, self.count + 1
            return
        excess = torch.stack([negative_elbo - self.bound, MMD_SCALE * (divergence - self.config.mmd)])
        self.squares = MEMORY * self.squares.to(excess) + (1 - MEMORY) * excess.square()
        step = self.config.lr * excess / self.squares.sqrt()
        self.multipliers = (self.multipliers.to(excess) + step).clamp(*MULTIPLIER_RANGE)

    def on_epoch_end(self, ctx: Context) -> None:
        if ctx.phase.name == "unconstrained":
            if self.config.bound is None:
                self.bound = self.total / self.count + self.config.margin
            self.total, self.count = torch.zeros(()), torch.zeros(())

    def on_phase_start(self, ctx: Context) -> None:
        if ctx.phase.name == "main" and self.config.bound is None:
            ctx.log_event(f"ε_1 = {self.bound:.2f} nats, the basic VAE's negative ELBO plus {self.config.margin:g}")

    def state_dict(self) -> State:
        return {name: value.tolist() for name, value in super().state_dict().items()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict({name: torch.tensor(value) for name, value in state.items()})
