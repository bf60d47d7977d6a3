"""KL capacity: a penalty on the distance of the KL from a capacity C, which rises to a target.

Loss:      E_q[-log p(x|z)] + γ |KL(q(z|x) || p(z)) - C(t)|, with the mean KL of the batch, or with form=hinge
           E_q[-log p(x|z)] + γ max(0, KL - C(t)).         (Burgess et al., 2018; for text Prokhorov et al., NGT 2019)
           C(t) = β(t) · target; the schedule's weight β rises linearly from 0 over the preset's ramp.
           ``kl_capacity+anneal(ramp=0)`` has a constant C.
Defaults:  target 5 nats; γ = 1, as in VictorProkhorov/KL_Text_VAE:Scripts/Model/model_wngt.py, where C rises over two
           epochs to between 3 and 100. 1Konny/Beta-VAE:solver.py, a re-implementation of Burgess et al., has γ = 1000
           and C rising to 25 over 10⁵ updates, for disentangling.
Deviates:  –
Note:      With γ = 1 the KL has weight 1 above C, as in the VAE, and -1 below it. The hinge with γ = 1 and constant C
           has the gradient of ``free_bits(placement=total_batch)``. A KL of C does not imply mutual information:
           posteriors that do not depend on x can have it.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import Context, ELBOTerms, Linear, Method, Range, Schedule, check_ranges

FORMS = ("absolute", "hinge")


class KLCapacity(Method):
    title = "KL capacity"
    summary = "distance of the KL from a capacity that rises to a target"
    citation = "Burgess et al., 2018 (arXiv 1804.03599); Prokhorov et al., NGT 2019 (arXiv 1909.13668)"
    marker = "pentagon"
    table_order = 60.5
    display_params = ("target",)
    incompatible_with = {"kl_term": "it has its own KL term"}
    vae_settings = {"target": 0.0}
    space = {"target": Range(1.0, 20.0)}

    @dataclass(frozen=True)
    class Config:
        target: float = 5.0  # nats
        weight: float = 1.0  # γ
        form: str = "absolute"  # or "hinge"

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="target weight", form=FORMS)

    def default_schedule(self) -> Schedule:
        return Linear(start=0.0)

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        excess = terms.kl.mean() - ctx.beta * self.config.target
        if self.config.target:  # without one it is the KL, which rounding can make slightly negative
            excess = excess.abs() if self.config.form == "absolute" else excess.relu()
        return terms.rec.mean() + self.config.weight * excess
