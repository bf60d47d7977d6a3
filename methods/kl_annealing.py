"""Linear KL annealing: the KL weight rises linearly to 1.

Loss:      E_q[-log p(x|z)] + β(t) KL(q(z|x) || p(z)), β from ``start`` to 1 over ``ramp`` of the updates
           (Bowman et al., CoNLL 2016). Another name of ``vae+anneal``.
Defaults:  start 0.1, as in He et al. (2019); the preset's ramp.
Deviates:  –
"""

from bench.method import Linear, Method, Schedule


class KLAnnealing(Method):
    title = "KL annealing"
    summary = "KL weight rising linearly to 1"
    citation = "Bowman et al., CoNLL 2016 (arXiv 1511.06349); Sønderby et al., NeurIPS 2016 (arXiv 1602.02282)"
    marker = "triangle_up"
    table_order = 20
    suites = {"core": ["kl_annealing"]}
    incompatible_with = {"schedule": "it has its own schedule"}
    same_as = "vae+anneal"
    vae_settings = {"start": 1.0}
    Config = Linear  # type: ignore[assignment]
    space = Linear.space

    def default_schedule(self) -> Schedule:
        return self.config
