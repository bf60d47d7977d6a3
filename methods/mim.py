"""A-MIM: the asymmetric mutual information machine, an objective that favours high mutual information.

Loss:      E_q[-log p(x|z) - ½ (log q(z|x) + log p(z))], one sample.            (Livne et al., 2020, arXiv 2003.02645)
           Compared with the VAE's loss, log q has the opposite sign and both logs are halved, which favours narrow
           posteriors.
Defaults:  log-variances of at least -10, the authors' (seraphlabs-ca/SentenceMIM-demo:model.py): without a floor the
           loss falls without limit as variances vanish.
Deviates:  e^-10 is added to the variance, where theirs clamps the log-variance. The authors' perplexity uses the
           aggregate posterior as the prior; here evaluation uses p(z) = N(0, I), as for all methods. Weights are
           selected by this loss on validation.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import VAE, Context, DataInfo, ELBOTerms, Range

from .parts.heads import FlooredHead
from .parts.no_kl import NoKLMethod


class MutualInformationMachine(NoKLMethod):
    title = "A-MIM"
    summary = "reward for narrow posteriors, which favours mutual information (A-MIM)"
    citation = "Livne et al., 2020 (arXiv 2003.02645)"
    marker = "star_down"
    table_order = 68
    revision = 3
    vae_settings = "log q has the opposite sign"
    space = {"floor": Range(-14.0, -4.0, log=False)}

    @dataclass(frozen=True)
    class Config:
        floor: float = -10.0  # of the log-variance

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.head = FlooredHead(model.head, self.config.floor)
        return model

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        log_probs = terms.q.log_prob(terms.z) + ctx.model.prior.log_prob(terms.z)  # (B, S)
        return (terms.rec - 0.5 * log_probs).mean()
