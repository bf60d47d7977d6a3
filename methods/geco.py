"""GECO: minimise the KL subject to a reconstruction of at most κ nats, with a Lagrange multiplier.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) / λ. Phase 1, ``share`` of the updates: λ = 1, the basic VAE.
           Phase 2: after every update λ ← λ exp(η C), with C the moving average of E_q[-log p(x|z)] minus κ; while C
           is negative, η is ``speedup`` times larger.                (Rezende & Viola, 2018, arXiv 1810.00597)
Defaults:  κ = None: the basic VAE's mean reconstruction in the last epoch of phase 1, minus ``margin``. A κ that the
           decoder reaches without z makes GECO collapse. Therefore the default κ is lowered by ``margin`` minus the KL
           after every epoch in which it is met at a KL below ``margin``. A given κ is constant.
           ``share`` = 0.4, ``margin`` = 4 nats, ``speedup`` = 10; λ stays between 1e-3 and 1e3.
Deviates:  the paper's loss, KL + λ (E_q[-log p(x|z)] - κ), is divided by λ, so that the reconstruction keeps its
           weight in SGD and clipping, as in applied-ai-lab/genesis:utils/geco.py, train.py. There η = 1e-5 for 64×64
           pixels and 2·10⁶ updates; denproc/Taming-VAEs:train.py starts after two epochs, and per 100 updates λ rises
           by at most 5 or 10 % and falls by at most 10 %. At C = 1 nat λ changes by a factor e in 1 / η updates, 5 %
           of Genesis's. Our η is 1e-4, for 2·10⁵ updates, 1.25e-3 in ``quick``, and 5e-4 in ``small``, for 10⁴, with a
           margin of 2: there a collapsed model uses z only after 10³ updates, and with 2e-3 and a margin of 4 λ rises
           to its bound meanwhile. Our average has a memory of 0.9, Genesis's of 0.99. The last weights are kept,
           because the ELBO favours those that violate the constraint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, ELBOTerms, Phase, Range, Schedule, check_ranges

from .parts.controller import KLController

MAX_MULTIPLIER = 1e3  # its inverse is the minimum


class GECO(KLController):
    title = "GECO"
    summary = "minimal KL subject to a given reconstruction quality"
    citation = "Rezende & Viola, 2018 (arXiv 1810.00597)"
    marker = "cross"
    table_order = 63
    revision = 5
    incompatible_with = {"schedule": "its multiplier sets the weight of the KL"}
    preset_overrides = {"quick": {"eta": 1.25e-3}, "small": {"margin": 2.0, "eta": 5e-4}}
    vae_settings = "its multiplier changes in the second phase"
    STATE = ("kappa", "rec_sum", "rec_weight", "multiplier")
    space = {"margin": Range(1.0, 10.0), "eta": Range(1e-4, 1e-2)}

    @dataclass(frozen=True)
    class Config:
        kappa: float | None = None  # nats per example; None: the basic VAE's reconstruction minus the margin
        margin: float = 4.0  # nats
        share: float = 0.4  # fraction of the updates for the basic VAE
        eta: float = 1e-4
        speedup: float = 10.0  # factor of η while the constraint is met
        memory: float = 0.9  # decay of the moving average

        def __post_init__(self) -> None:
            check_ranges(self, "margin share eta speedup", "memory", below_one="share memory")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.kappa, self.multiplier = torch.tensor(self.config.kappa or 0.0), torch.tensor(1.0)
        self.rec_sum, self.rec_weight = torch.tensor(0.0), torch.tensor(0.0)

    def phases(self) -> Sequence[Phase]:
        share = self.config.share
        return Phase("unconstrained", share), Phase("main", 1 - share, selection_metric=None)

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean() + self.kl_loss(terms) / self.multiplier

    def measure(self, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean()

    @property
    def reconstruction(self) -> Tensor:
        """Mean reconstruction of the epoch in phase 1, the moving average in phase 2, a scalar in nats."""
        return self.rec_sum / self.rec_weight

    def update_weight(self, ctx: Context, measured: Tensor) -> None:
        constrained = ctx.phase.name == "main"
        memory = self.config.memory if constrained else 1.0
        self.rec_sum, self.rec_weight = memory * self.rec_sum + measured, memory * self.rec_weight + 1
        if constrained:
            constraint = self.reconstruction - self.kappa
            change = self.config.eta * (constraint.relu() - self.config.speedup * (-constraint).relu())
            self.multiplier = (self.multiplier * change.exp()).clamp(1 / MAX_MULTIPLIER, MAX_MULTIPLIER)

    def on_epoch_end(self, ctx: Context) -> None:
        config, first_phase = self.config, ctx.phase.name == "unconstrained"
        if config.kappa is None and first_phase:
            self.kappa = self.reconstruction - config.margin
        elif config.kappa is None and self.reconstruction < self.kappa:
            self.kappa = self.kappa - max(0.0, config.margin - ctx.val["kl"])
        if first_phase:
            self.rec_sum, self.rec_weight = torch.zeros_like(self.rec_sum), torch.zeros_like(self.rec_weight)
        if ctx.step >= ctx.total:
            values = f"λ = {self.multiplier:.3g}, reconstruction {self.reconstruction:.2f}, κ = {self.kappa:.2f} nats"
            ctx.log_event(f"{values} at the end")

    def on_phase_start(self, ctx: Context) -> None:
        if ctx.phase.name == "main" and self.config.kappa is None:
            margin = self.config.margin
            ctx.log_event(f"κ = {self.kappa:.2f} nats, the basic VAE's reconstruction minus {margin:g}")
