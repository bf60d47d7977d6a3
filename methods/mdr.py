"""Minimum desired rate: the ELBO is maximised under the constraint that the KL is at least a target, by a multiplier.

min_{θ,φ} max_{u ≥ 0} E_q[-log p(x|z)] + KL + u (target - KL); after every step u goes up its gradient by RMSprop and
stays in [0, 1]: above 1 the KL itself would be rewarded, which overshoots by tens of nats. The authors' step size for u
is 1e-3, for some 10⁵ updates; the reduced presets have some 10³.
"""

from dataclasses import dataclass

import torch

from bench.method import check_ranges

from .parts.control import Controlled


class MinimumDesiredRate(Controlled):
    summary = "KL at least a target, by a Lagrange multiplier"
    citation = "Pelsmaeker & Aziz, ACL 2020"
    table_order = 62
    display_params = ("target",)
    incompatible_with = {
        "schedule": "its multiplier sets the weight of the KL",
        "kl_term": "its multiplier belongs to the KL itself",
    }
    preset_overrides = {"quick": {"lr": 1e-2}, "small": {"lr": 1e-2}}
    vae_settings = {"start": 0.0, "lr": 0.0}
    STATE = ("multiplier", "square")

    @dataclass(frozen=True)
    class Config:
        target: float = 5.0  # nats
        start: float = 0.5  # of the multiplier
        lr: float = 1e-3

        def __post_init__(self):
            check_ranges(self, "target", "start lr")
            if self.start > 1:
                raise ValueError(f"'start' is at most 1, or the KL would be rewarded, not {self.start}")

    def __init__(self, config=None, schedule=None):
        super().__init__(config, schedule)
        self.multiplier, self.square = torch.tensor(self.config.start), torch.tensor(0.0)

    def kl_loss(self, terms):
        kl = terms.kl.mean()
        return kl + self.multiplier * (self.config.target - kl)

    def control(self, seen):
        gradient = self.config.target - seen
        self.square = 0.99 * self.square + 0.01 * gradient.square()
        step = self.config.lr * gradient / (self.square.sqrt() + 1e-8)
        self.multiplier = (self.multiplier + step).clamp(0, 1)
