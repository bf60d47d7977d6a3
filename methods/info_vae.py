"""InfoVAE: part of the KL gives way to a divergence of the aggregate posterior, which costs no mutual information.

L = E_q[-log p(x|z)] + (1 - α) KL + (α + λ - 1) MMD²(q(z), p(z)), the MMD unbiased, with inverse multiquadric kernels
summed over seven scales. α = 0, λ = 1 is the VAE, α = 1 a Wasserstein autoencoder (``wae_mmd``). The authors take α = 0
and a large λ.
"""

from dataclasses import dataclass

from bench.method import Method, check_ranges

from .parts.mmd import mmd


class InfoVAE(Method):
    summary = "KL traded for the MMD of the aggregate posterior to the prior"
    citation = "Zhao et al., AAAI 2019"
    table_order = 65
    vae_settings = {"alpha": 0.0, "lam": 1.0}

    @dataclass(frozen=True)
    class Config:
        alpha: float = 0.0
        lam: float = 1000.0

        def __post_init__(self):
            check_ranges(self, not_negative="lam alpha")
            if self.alpha > 1:
                raise ValueError(f"'alpha' is at most 1, or the KL would be sought, not {self.alpha}")

    def kl_loss(self, terms):
        return (1 - self.config.alpha) * super().kl_loss(terms)

    def loss(self, ctx, terms):
        prior = ctx.model.prior.sample(len(terms.z), ctx.generator("prior"), terms.z.device)
        weight = self.config.alpha + self.config.lam - 1
        return super().loss(ctx, terms) + weight * mmd(terms.z[:, 0], prior)
