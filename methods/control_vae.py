"""ControlVAE: a PI controller adapts the KL weight to reach a target KL.

Loss:      E_q[-log p(x|z)] + w KL(q(z|x) || p(z)), w = P + I; with e = target - KL of the batch,
           P = K_p / (1 + exp(e)) and I ← I + K_i e, limited to keep w in [0, 1].            (Shao et al., ICML 2020)
Defaults:  target 5 nats; K_p = 0.01 and K_i = -1e-4, the authors' for text and images. K_i < 0: below the target the
           weight falls. At an error of 1 nat it changes by 1 in 1 / |K_i| updates, an eighth of the authors' 8·10⁴ on
           text. -1e-3 in the reduced presets: a tenth of the 10⁴ of ``small`` on text.
Deviates:  I is clamped instead of frozen when w leaves [0, 1]. Two of the three public controllers test these bounds by
           a condition that is never true, so their integral winds up; a frozen integral can stay at a bound forever.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, ELBOTerms, Range, Schedule, check_ranges

from .parts.controller import KLController


class ControlVAE(KLController):
    title = "ControlVAE"
    summary = "KL weight set by a PI controller to reach a target KL"
    citation = "Shao et al., ICML 2020 (arXiv 2004.05988)"
    marker = "star"
    table_order = 64
    revision = 2
    display_params = ("target",)
    incompatible_with = {"schedule": "its controller sets the KL weight"}
    preset_overrides = {"quick": {"ki": -1e-3}, "small": {"ki": -1e-3}}
    vae_settings = "its weight starts at 0"
    STATE = ("weight", "integral")
    space = {"target": Range(1.0, 20.0)}

    @dataclass(frozen=True)
    class Config:
        target: float = 5.0  # nats
        kp: float = 0.01
        ki: float = -1e-4

        def __post_init__(self) -> None:
            check_ranges(self, "target kp")
            if not self.ki < 0:
                raise ValueError(
                    f"'ki' must be negative, so that a KL below the target lowers the weight, not {self.ki}"
                )

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.weight, self.integral = torch.tensor(0.0), torch.tensor(0.0)

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        return self.weight * super().kl_loss(terms)

    def update_weight(self, ctx: Context, measured: Tensor) -> None:
        error = self.config.target - measured
        proportional = self.config.kp * torch.sigmoid(-error)
        self.integral = (self.integral + self.config.ki * error).clamp(-proportional, 1 - proportional)
        self.weight = proportional + self.integral
