"""ControlVAE: a PI controller sets the KL weight so that the KL comes to a set-point.

e = target - KL of the batch; P = K_p / (1 + exp(e)); I ← I + K_i e, but no further than takes the weight w = P + I
from 0 to 1; L = E_q[-log p(x|z)] + w KL. (Of the three public controllers two test these bounds in a way that is never
true, so that theirs winds up; one that stands still wherever the last weight was out may stay there for good.) K_i < 0:
below the set-point the weight falls. Gains are the authors' for text; the reduced presets, of some 10³ updates in place
of 10⁵, have a larger K_i.
"""

from dataclasses import dataclass

import torch

from bench.method import check_ranges

from .parts.control import Controlled


class ControlVAE(Controlled):
    summary = "KL weight by a PI controller for a set-point of the KL"
    citation = "Shao et al., ICML 2020"
    table_order = 64
    revision = 2
    display_params = ("target",)
    incompatible_with = {"schedule": "its controller sets the weight of the KL"}
    preset_overrides = {"quick": {"ki": -1e-3}, "small": {"ki": -1e-3}}
    vae_settings = "its weight starts at 0"
    STATE = ("weight", "integral")

    @dataclass(frozen=True)
    class Config:
        target: float = 5.0  # nats
        kp: float = 0.01
        ki: float = -1e-4

        def __post_init__(self):
            check_ranges(self, "target kp")
            if not self.ki < 0:
                raise ValueError(
                    f"'ki' must be negative, so that a KL below the target lowers the weight, not {self.ki}"
                )

    def __init__(self, config=None, schedule=None):
        super().__init__(config, schedule)
        self.weight, self.integral = torch.tensor(0.0), torch.tensor(0.0)

    def kl_loss(self, terms):
        return self.weight * super().kl_loss(terms)

    def control(self, seen):
        error = self.config.target - seen
        proportional = self.config.kp * torch.sigmoid(-error)
        self.integral = (self.integral + self.config.ki * error).clamp(-proportional, 1 - proportional)
        self.weight = proportional + self.integral
