"""Linear KL annealing: the KL weight rises from ``start`` to 1 over the preset's ramp.

L = E_q[-log p(x|z)] + β(t) KL(q(z|x) ‖ p(z)). The same as ``vae+anneal``.
"""

from dataclasses import dataclass

from bench.core.schedules import Linear
from bench.method import Method


class KLAnnealing(Method):
    summary = "KL weight rising linearly to 1"
    citation = "Bowman et al., CoNLL 2016; Sønderby et al., NeurIPS 2016"
    table_order = 20
    suites = {"core": ["kl_annealing"]}
    incompatible_with = {"schedule": "it has a schedule of its own"}
    vae_settings = {"start": 1.0}

    @dataclass(frozen=True)
    class Config:
        start: float = 0.1
        ramp: float | None = None  # share of the updates; None: the preset's

        def __post_init__(self):
            Linear(self.start, self.ramp)  # which checks them

    def default_schedule(self):
        return Linear(self.config.start, self.config.ramp)
