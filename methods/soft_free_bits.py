"""Soft free bits: the KL weight changes by 10 % per update to keep the KL at a target.

Loss:      E_q[-log p(x|z)] + γ KL(q(z|x) || p(z)). After every update γ ← (1 + rate) γ if the KL of the batch is above
           (1 + slack) target, γ ← γ / (1 + rate) if it is below the target; 10⁻⁴ ≤ γ ≤ 1.
           (Chen et al., ICLR 2017, appendix C)
Defaults:  rate 0.1 and slack 0.05, the paper's; γ starts at 0.1, as in tom-pelsmaeker/deep-generative-lm:
           model/base_decoder.py, which has the lower bound too. Target 5 nats.
Deviates:  –
Note:      γ = 1 is the VAE, so a KL that exceeds the target there is not reduced to it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, ELBOTerms, Range, Schedule, check_ranges

from .parts.controller import KLController

MIN_WEIGHT = 1e-4


class SoftFreeBits(KLController):
    title = "Soft free bits"
    summary = "KL weight changed by 10 % per update to keep the KL at a target"
    citation = "Chen et al., ICLR 2017 (arXiv 1611.02731)"
    marker = "hexagon"
    table_order = 60.7
    display_params = ("target",)
    incompatible_with = {
        "schedule": "its controller sets the KL weight",
        "kl_term": "its controller keeps the KL itself at the target",
    }
    vae_settings = {"start": 1.0, "rate": 0.0}
    STATE = ("weight",)
    space = {"target": Range(1.0, 20.0)}

    @dataclass(frozen=True)
    class Config:
        target: float = 5.0  # nats
        start: float = 0.1  # of the weight
        rate: float = 0.1  # relative change of the weight per update
        slack: float = 0.05  # relative excess of the KL above which the weight rises

        def __post_init__(self) -> None:
            check_ranges(self, "target start", "rate slack", at_most_one="start")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.weight = torch.tensor(self.config.start)

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        return self.weight * super().kl_loss(terms)

    def update_weight(self, ctx: Context, measured: Tensor) -> None:
        target, slack = self.config.target, self.config.slack
        direction = (measured > (1 + slack) * target).float() - (measured < target).float()
        self.weight = (self.weight * (1 + self.config.rate) ** direction).clamp(MIN_WEIGHT, 1)
