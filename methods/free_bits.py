"""Free bits: no penalty on the KL below a target.

Loss:      E_q[-log p(x|z)] + R, with λ = target / D and one of four placements of the maximum:
           dim_example:    R = E_x Σ_d max(λ, KL_d(x))                                       (Li et al., EMNLP 2019)
           dim_batch:      R = Σ_d max(λ, E_x KL_d(x))                                   (Kingma et al., NeurIPS 2016)
           total_example:  R = E_x max(target, KL(x))
           total_batch:    R = max(target, E_x KL(x))
           The same as ``vae+free_bits``.
Defaults:  target 8 nats and ``dim_example``, as in Li et al.
Deviates:  public code masks the KL below λ, which has the same gradient; tables show the true KL. With batch
           placements a few examples may carry the whole KL.
"""

from torch import Tensor

from bench.method import ELBOTerms, Method

from .parts.free_bits import FreeBits


class FreeBitsVAE(Method):
    title = "Free bits"
    summary = "no penalty on the KL below a target"
    citation = "Kingma et al., NeurIPS 2016 (arXiv 1606.04934)"
    marker = "square"
    table_order = 60
    display_params = ("target",)
    exported_kl_term = FreeBits
    incompatible_with = {"kl_term": "it has its own KL term"}
    vae_settings = {"target": 0.0}
    Config = FreeBits  # type: ignore[assignment]
    space = FreeBits.space

    def kl_loss(self, terms: ELBOTerms) -> Tensor:
        return self.config(terms.kl, terms.kl_dim)
