"""MDR (minimum desired rate): the ELBO subject to a KL of at least a target, with a Lagrange multiplier.

Loss:      min_{θ,φ} max_{u ≥ 0} E_q[-log p(x|z)] + KL + u (target - KL); u ascends its gradient by RMSprop after every
           step.                                                                   (Pelsmaeker & Aziz, ACL 2020)
Defaults:  target 5 nats, u starts at 0.5 with step size 1e-3, the authors' for about 10⁵ updates. While the error keeps
           its sign, u changes by 1 in 1 / step size updates, 1 % of theirs. 1e-2 in the reduced presets: 1 % of the 10⁴
           of ``small``.
Deviates:  u is limited to [0, 1.1]. Above 1 the KL itself is rewarded, which is what raises a KL below the target. The
           authors' |u| has no upper limit (tom-pelsmaeker/vae-lagging-encoder:text.py), so the KL overshoots by tens of
           nats before u has decreased again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, ELBOTerms, Range, Schedule, check_ranges

from .parts.controller import KLController

MAX_MULTIPLIER = 1.1


class MinimumDesiredRate(KLController):
    title = "MDR"
    summary = "KL of at least a target, by a Lagrange multiplier"
    citation = "Pelsmaeker & Aziz, ACL 2020 (arXiv 1904.08194)"
    marker = "plus"
    table_order = 62
    revision = 2
    display_params = ("target",)
    incompatible_with = {
        "schedule": "its multiplier sets the KL weight",
        "kl_term": "its multiplier constrains the KL itself",
    }
    preset_overrides = {"quick": {"lr": 1e-2}, "small": {"lr": 1e-2}}
    vae_settings = {"start": 0.0, "lr": 0.0}
    STATE = ("multiplier", "square")
    space = {"target": Range(1.0, 20.0)}

    @dataclass(frozen=True)
    class Config:
        target: float = 5.0  # nats
        start: float = 0.5  # of the multiplier
        lr: float = 1e-3  # of the multiplier

        def __post_init__(self) -> None:
            check_ranges(self, "target", "start lr")
            if self.start > MAX_MULTIPLIER:
                raise ValueError(f"'start' must be at most {MAX_MULTIPLIER}, not {self.start}")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.multiplier, self.square = torch.tensor(self.config.start), torch.tensor(0.0)

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        kl = terms.kl.mean()
        return kl + self.multiplier * (self.config.target - kl)

    def update_weight(self, ctx: Context, measured: Tensor) -> None:
        gradient = self.config.target - measured
        self.square = 0.99 * self.square + 0.01 * gradient.square()
        step = self.config.lr * gradient / (self.square.sqrt() + 1e-8)
        self.multiplier = (self.multiplier + step).clamp(0, MAX_MULTIPLIER)
