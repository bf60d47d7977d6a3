"""Cyclical annealing: the KL weight rises from 0 to 1 in several cycles.

Loss:      E_q[-log p(x|z)] + β(t) KL(q(z|x) || p(z)), β = min(1, τ / ratio) at position τ in [0, 1) of a cycle
           (Fu et al., NAACL 2019). Another name of ``vae+cyclical``.
Defaults:  4 cycles, ratio 0.5.
Deviates:  follows the paper; the authors' PTB script starts each cycle at 0.1, with its own learning rate.
"""

from bench.method import Cyclical, Method, Schedule


class CyclicalAnnealing(Method):
    title = "Cyclical annealing"
    summary = "KL weight rising from 0 to 1 in cycles"
    citation = "Fu et al., NAACL 2019 (arXiv 1903.10145)"
    marker = "triangle_down"
    table_order = 22
    incompatible_with = {"schedule": "it has its own schedule"}
    same_as = "vae+cyclical"
    vae_settings = "every cycle starts at a KL weight of 0"
    Config = Cyclical  # type: ignore[assignment]
    space = Cyclical.space

    def default_schedule(self) -> Schedule:
        return self.config
