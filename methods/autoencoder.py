"""Autoencoder: the basic VAE without its KL term, a reference for the best reconstruction of these networks.

Loss:      E_q[-log p(x|z)], z ~ q(z|x)
Defaults:  –
Deviates:  a stochastic encoder, as the VAE's. Nothing ties q to the prior, so KL and NLL show how far it departs.
"""

from torch import Tensor

from bench.method import Context, ELBOTerms

from .parts.no_kl import NoKLMethod


class Autoencoder(NoKLMethod):
    summary = "the basic VAE without its KL term"
    citation = "Hinton & Salakhutdinov, Science 2006"
    family = "reference"
    table_order = 5
    revision = 2
    vae_settings = "it has no KL term"
    footnotes = dict.fromkeys(
        ("nll", "nll_refined", "elbo", "kl"), "trained without the KL, so z is not matched to the prior"
    )

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean()
