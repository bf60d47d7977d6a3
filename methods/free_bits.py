"""Free bits: no penalty on the KL below a target, so that z may carry that much for nothing.

Four losses share the name; ``placement`` says where the maximum stands, with λ = target / D:
``dim_example``   E_x Σ_d max(λ, KL_d(x))      (Li et al., EMNLP 2019)
``dim_batch``     Σ_d max(λ, E_x KL_d(x))      (Kingma et al.)
``total_example`` E_x max(target, KL(x))
``total_batch``   max(target, E_x KL(x))
The public code that masks the KL where it is below λ has the same gradient. Tables show the true KL. The rate settles
near the target; with ``batch`` placements a few examples may pay for all. The same as ``vae+free_bits``.
"""

from dataclasses import dataclass

from bench.method import Method

from .parts.free_bits import FreeBits


class FreeBitsVAE(Method):
    summary = "no penalty on a KL below a target"
    citation = "Kingma et al., NeurIPS 2016"
    table_order = 60
    display_params = ("target",)
    exported_kl_term = FreeBits
    incompatible_with = {"kl_term": "it has a form of the KL term of its own"}
    vae_settings = {"target": 0.0}

    @dataclass(frozen=True)
    class Config:
        target: float = 8.0  # nats
        placement: str = "dim_example"

        def __post_init__(self):
            FreeBits(self.target, self.placement)  # which checks them

    def kl_loss(self, terms):
        return FreeBits(self.config.target, self.config.placement)(terms.kl, terms.kl_dim)
