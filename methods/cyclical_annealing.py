"""Cyclical annealing: the KL weight rises from 0 to 1 ``cycles`` times, each over the first ``ratio`` of a cycle.

L = E_q[-log p(x|z)] + β(t) KL(q(z|x) ‖ p(z)), β = min(1, τ / ratio) with τ in [0, 1) the place in the cycle. The same
as ``vae+cyclical``. The authors' PTB script starts each cycle at 0.1 with a learning rate of its own; this is the
paper's.
"""

from dataclasses import dataclass

from bench.core.schedules import Cyclical
from bench.method import Method


class CyclicalAnnealing(Method):
    summary = "KL weight rising to 1 again and again"
    citation = "Fu et al., NAACL 2019"
    table_order = 22
    incompatible_with = {"schedule": "it has a schedule of its own"}
    vae_settings = "a cycle begins with a KL weight of 0"

    @dataclass(frozen=True)
    class Config:
        cycles: int = 4
        ratio: float = 0.5

        def __post_init__(self):
            Cyclical(self.cycles, self.ratio)  # which checks them

    def default_schedule(self):
        return Cyclical(self.config.cycles, self.config.ratio)
