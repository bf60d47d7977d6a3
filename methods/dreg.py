"""DReG: the importance-weighted bound with doubly reparametrised gradients of the encoder.

Loss:      that of ``iwae``, with its gradient for the decoder. The encoder's gradient is that of
           -E[Σ_k w̃_k² log w_k], w_k = p(x|z_k) p(z_k) / q(z_k|x), through z_k alone: w̃_k = w_k / Σ_j w_j and the
           parameters of q in log q(z_k|x) are constants. It has the same expectation as IWAE's, and its signal-to-noise
           ratio does not vanish as K grows.                                                (Tucker et al., ICLR 2019)
Defaults:  K = 5, as ``iwae``.
Deviates:  weights are selected by this loss on validation, as in ``iwae``.
Note:      Checked against google-research/google-research:dreg_estimators/model.py.
"""

from torch import Tensor

from bench.method import Context, ELBOTerms, Gaussian, Range

from .iwae import ImportanceWeightedAutoencoder


class DoublyReparametrisedIWAE(ImportanceWeightedAutoencoder):
    title = "DReG"
    summary = "importance-weighted bound with doubly reparametrised gradients"
    citation = "Tucker et al., ICLR 2019 (arXiv 1810.04152)"
    marker = "star4_cross"
    table_order = 78
    revision = 1
    space = {"samples": Range(2, 20)}

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        """Return the terms with a q that has no gradient, and samples z whose gradient is multiplied by w̃."""
        terms = super().elbo_terms(ctx, x)
        terms.q = Gaussian(terms.q.mean.detach(), terms.q.logvar.detach())
        weights = self.log_weights(ctx, terms).detach().softmax(1).unsqueeze(-1)  # (B, K, 1)
        if terms.z.requires_grad:  # not in validation
            terms.z.register_hook(lambda gradient: weights * gradient)
        return terms
