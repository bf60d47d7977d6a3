"""β-VAE: constant KL weight.

Loss:      E_q[-log p(x|z)] + β KL(q(z|x) || p(z))                                (Higgins et al., ICLR 2017, Eq. 4)
Defaults:  β = 0.4; He et al. (2019) compare 0.2, 0.4, 0.6, 0.8.
Deviates:  –
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import ELBOTerms, Method, Range, check_ranges


class BetaVAE(Method):
    title = "β-VAE"
    summary = "constant KL weight β"
    citation = "Higgins et al., ICLR 2017 (OpenReview Sy2fzU9gl)"
    marker = "diamond"
    table_order = 30
    display_params = ("beta",)
    suites = {"core": ["beta_vae"], "paper": [f"beta_vae(beta={beta})" for beta in (0.2, 0.4, 0.6, 0.8)]}
    vae_settings = {"beta": 1.0}
    space = {"beta": Range(0.1, 1.0, log=False)}

    @dataclass(frozen=True)
    class Config:
        beta: float = 0.4

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="beta")

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        return self.config.beta * super().kl_loss(terms)
