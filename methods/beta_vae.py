"""β-VAE with a constant weight on the KL; β < 1 weakens the pull towards the prior.

L = E_q[-log p(x|z)] + β KL(q(z|x) ‖ p(z)). He et al. (2019) compare β = 0.2, 0.4, 0.6, 0.8.
"""

from dataclasses import dataclass

from bench.method import Method, check_ranges


class BetaVAE(Method):
    summary = "constant KL weight β"
    citation = "Higgins et al., ICLR 2017"
    table_order = 30
    display_params = ("beta",)
    suites = {"core": ["beta_vae"], "paper": [f"beta_vae(beta={beta})" for beta in (0.2, 0.4, 0.6, 0.8)]}
    vae_settings = {"beta": 1.0}

    @dataclass(frozen=True)
    class Config:
        beta: float = 0.4

        def __post_init__(self):
            check_ranges(self, not_negative="beta")

    def kl_loss(self, terms):
        return self.config.beta * super().kl_loss(terms)
