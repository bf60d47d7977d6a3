"""GECO: minimise the KL subject to a reconstruction of at most κ nats, with a Lagrange multiplier.

Loss:      KL(q(z|x) || p(z)) + λ C, C = E_q[-log p(x|z)] - κ. After every step λ ← λ exp(η C_ma), with the factor
           limited to [0.9, 1.05] and C_ma the moving average of C.          (Rezende & Viola, 2018, arXiv 1810.00597)
Defaults:  κ = None trains an autoencoder for ``share`` of the updates; κ is then its mean reconstruction in the last
           epoch plus ``margin``. A κ that the decoder reaches without z makes GECO collapse.
Deviates:  η = 0.01 is ours, because the authors' constant could not be verified.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, ELBOTerms, Phase, Schedule, check_ranges

from .parts.controller import KLController

MAX_MULTIPLIER = 1e3  # its inverse is the minimum
LOG_FACTOR_RANGE = (math.log(0.9), math.log(1.05))  # per step


class GECO(KLController):
    summary = "minimal KL subject to a given reconstruction quality"
    citation = "Rezende & Viola, 2018 (arXiv 1810.00597)"
    table_order = 63
    incompatible_with = {"schedule": "its multiplier sets the weight of the KL"}
    vae_settings = "its multiplier changes from the first step"
    STATE = ("kappa", "ema_sum", "ema_weight", "multiplier")

    @dataclass(frozen=True)
    class Config:
        kappa: float | None = None  # nats per example; None: an autoencoder's reconstruction plus the margin
        margin: float = 1.0  # nats
        share: float = 0.3  # fraction of the updates for the autoencoder
        eta: float = 0.01
        memory: float = 0.99  # decay of the moving average

        def __post_init__(self) -> None:
            check_ranges(self, "share eta", "memory")
            if self.share >= 1 or self.memory >= 1:
                raise ValueError("'share' and 'memory' must be below 1")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.kappa, self.multiplier = torch.tensor(self.config.kappa or 0.0), torch.tensor(1.0)
        self.ema_sum, self.ema_weight = torch.tensor(0.0), torch.tensor(0.0)  # their ratio: average reconstruction

    def phases(self) -> Sequence[Phase]:
        if self.config.kappa is not None:
            return (Phase(),)
        return Phase("pretraining", self.config.share, selection_metric=None), Phase("main", 1 - self.config.share)

    def measure(self, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean()

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        if ctx.phase.name == "pretraining":
            return terms.rec.mean()
        return self.kl_loss(terms) + self.multiplier * (terms.rec.mean() - self.kappa)

    def update_weight(self, measured: Tensor) -> None:
        memory = self.config.memory
        self.ema_sum, self.ema_weight = memory * self.ema_sum + measured, memory * self.ema_weight + 1

    def on_epoch_end(self, ctx: Context) -> None:
        if ctx.phase.name == "pretraining":
            self.kappa = self.ema_sum / self.ema_weight + self.config.margin
            self.ema_sum, self.ema_weight = torch.zeros_like(self.ema_sum), torch.zeros_like(self.ema_weight)

    def on_phase_start(self, ctx: Context) -> None:
        if ctx.phase.name == "main" and self.config.kappa is None:
            ctx.log_event(f"κ = {self.kappa:.2f} nats, the autoencoder's reconstruction plus {self.config.margin:g}")

    def on_step_end(self, ctx: Context) -> None:
        super().on_step_end(ctx)
        if ctx.phase.name == "main":
            constraint = self.ema_sum / self.ema_weight - self.kappa
            factor = (self.config.eta * constraint).clamp(*LOG_FACTOR_RANGE).exp()
            self.multiplier = (self.multiplier * factor).clamp(1 / MAX_MULTIPLIER, MAX_MULTIPLIER)
