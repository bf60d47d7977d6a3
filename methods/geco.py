"""GECO: the KL is minimised under the constraint that the reconstruction reaches κ, by a multiplier.

C = E_q[-log p(x|z)] - κ, C_ma its moving average, with weights a^k; L = KL + λ C; after every step λ ← λ exp(η C_ma),
each time by a factor in [0.9, 1.05]. κ is in nats of this data: without one, an autoencoder is trained for ``share`` of
the updates, and κ is its mean reconstruction in the last epoch plus ``margin``. A κ that the decoder reaches without z
makes GECO collapse. η is not the authors', whose constant could not be verified.
"""

import math
from dataclasses import dataclass

import torch

from bench.method import Phase, check_ranges

from .parts.control import Controlled

LARGEST = 1e3  # multiplier, and its inverse the smallest
FACTOR = (math.log(0.9), math.log(1.05))


class GECO(Controlled):
    summary = "least KL that reconstructs to a given quality"
    citation = "Rezende & Viola, 2018 (arXiv 1810.00597)"
    table_order = 63
    incompatible_with = {"schedule": "its multiplier sets the weight of the reconstruction against the KL"}
    vae_settings = "its multiplier moves from the first step on"
    STATE = ("kappa", "total", "weight", "multiplier")

    @dataclass(frozen=True)
    class Config:
        kappa: float | None = None  # nats of reconstruction per example; None: an autoencoder's plus the margin
        margin: float = 1.0  # nats
        share: float = 0.3  # of the updates for the autoencoder
        eta: float = 0.01
        memory: float = 0.99  # of the moving average

        def __post_init__(self):
            check_ranges(self, "share eta", "memory")
            if self.share >= 1 or self.memory >= 1:
                raise ValueError("'share' and 'memory' are shares, below 1")

    def __init__(self, config=None, schedule=None):
        super().__init__(config, schedule)
        self.kappa = torch.tensor(self.config.kappa or 0.0)
        self.total, self.weight, self.multiplier = torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0)

    def phases(self):
        if self.config.kappa is not None:
            return (Phase(),)
        return Phase("pretraining", self.config.share, selection_metric=None), Phase("main", 1 - self.config.share)

    def observe(self, terms):
        return terms.rec.mean()

    def loss(self, ctx, terms):
        if ctx.phase.name == "pretraining":
            return terms.rec.mean()
        return self.kl_loss(terms) + self.multiplier * (terms.rec.mean() - self.kappa)

    def control(self, seen):
        memory = self.config.memory
        self.total, self.weight = memory * self.total + seen, memory * self.weight + 1

    def on_epoch_end(self, ctx):
        if ctx.phase.name != "main":
            self.kappa = self.total / self.weight + self.config.margin
            self.total, self.weight = torch.zeros_like(self.total), torch.zeros_like(self.weight)

    def on_phase_start(self, ctx):
        if ctx.phase.name == "main" and self.config.kappa is None:
            ctx.log_event(f"κ = {self.kappa:.2f} nats, an autoencoder's reconstruction plus {self.config.margin:g}")

    def on_step_end(self, ctx):
        super().on_step_end(ctx)
        if ctx.phase.name == "main":
            missing = self.total / self.weight - self.kappa
            factor = (self.config.eta * missing).clamp(*FACTOR).exp()
            self.multiplier = (self.multiplier * factor).clamp(1 / LARGEST, LARGEST)
