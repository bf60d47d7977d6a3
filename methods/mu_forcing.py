"""μ-forcing: a penalty on a variance of posterior means below a margin.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) + D max(0, m - mean_d Var_B(μ_d))       (Liu et al., TALLIP 2019)
           A unit of variance in one dimension costs ½ in the KL and gains 1 here, so the means spread until the margin
           is met.
Defaults:  m = 2.5, for which the authors report a KL of 20.6 nats in 16 dimensions; their notebook also has 1.5 to 3
           (dayihengliu/Mu-Forcing-VRAE:mu_Forcing.ipynb). The KL is at least about ½ D m.
Deviates:  reconstruction and KL are sums per example and the penalty counts every dimension; the authors' notebook
           averages the reconstruction over words and weights the KL by 0.1.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import Context, ELBOTerms, Method, Range, check_ranges


class MuForcing(Method):
    title = "μ-Forcing"
    summary = "lower bound on the variance of posterior means"
    citation = "Liu et al., TALLIP 2019 (arXiv 1905.10072)"
    marker = "bar"
    table_order = 73
    revision = 2
    display_params = ("margin",)
    footnotes = {"au": "its loss rewards the spread of posterior means"}
    vae_settings = {"margin": 0.0}
    space = {"margin": Range(0.5, 10.0)}

    @dataclass(frozen=True)
    class Config:
        margin: float = 2.5

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="margin")

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        mean = terms.q.mean  # (B, D)
        shortfall = self.config.margin - (mean - mean.mean(0)).square().mean()
        return super().loss(ctx, terms) + mean.shape[1] * shortfall.relu()
