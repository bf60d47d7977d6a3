"""The autoencoder: a VAE without its KL term, the other end of the comparison from the decoder alone.

L = E_q[-log p(x|z)], z ~ q. Nothing holds z to the prior, so KL and NLL say how far it strays, and reconstruction is
the best that these networks reach. Weights are selected by that on validation, for it does not seek the ELBO.
"""

from bench.method import Method, Phase

NOT_HELD = "trained without the KL, so z is not held to the prior"


class Autoencoder(Method):
    summary = "the basic VAE without its KL term"
    citation = "Hinton & Salakhutdinov, Science 2006"
    family = "anchor"
    table_order = 5
    revision = 2
    incompatible_with = {
        "schedule": "it has no KL term that a weight could change",
        "kl_term": "it has no KL term",
    }
    vae_settings = "the KL term is what it lacks"
    footnotes = {column: NOT_HELD for column in ("nll", "nll_refined", "elbo", "kl")}

    def phases(self):
        return (Phase(selection_metric="loss"),)

    def loss(self, ctx, terms):
        return terms.rec.mean()
