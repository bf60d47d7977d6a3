"""A-MIM: the asymmetric mutual information machine, whose joint of encoder and decoder is drawn to high mutual
information.

L = E_q[-log p(x|z) - ½ (log q(z|x) + log p(z))], one sample: against the VAE's, log q has changed its sign and both are
halved, so a narrow posterior is sought; the loss falls without end as variances vanish, so here they have a
floor, which its definition lacks. The authors' perplexity rests on the aggregate posterior in the prior's place; here
it is judged with p(z) = N(0, I) like everything else. Weights are selected by this loss on validation, for
it does not seek the ELBO.
"""

from dataclasses import dataclass

from bench.method import Method, Phase

from .wae_mmd import FlooredHead


class MutualInformationMachine(Method):
    summary = "mutual information sought by a symmetric objective (A-MIM)"
    citation = "Livne et al., 2020 (arXiv 2003.02645)"
    table_order = 68
    revision = 2
    incompatible_with = {"schedule": "it has no KL term that a weight could change", "kl_term": "it has no KL term"}
    footnotes = {column: "its loss seeks no ELBO" for column in ("nll", "elbo", "kl")}
    vae_settings = "the sign of log q differs"

    @dataclass(frozen=True)
    class Config:
        floor: float = -6.0  # of a log-variance

    def phases(self):
        return (Phase(selection_metric="loss"),)

    def build(self, model, data):
        model.head = FlooredHead(model.head, self.config.floor)
        return model

    def loss(self, ctx, terms):
        logs = terms.q.log_prob(terms.z) + ctx.model.prior.log_prob(terms.z)
        return (terms.rec - 0.5 * logs).mean()
