"""Autoencoder: the basic VAE without its KL term, a reference for the best reconstruction of these networks.

Loss:      E_q[-log p(x|z)], z ~ q(z|x)
Defaults:  log-variances of at least -6.
Deviates:  a stochastic encoder, as the VAE's, with a floor under its variance, because nothing in the loss keeps the
           variance above 0. Weights are selected by this loss on validation. Nothing ties q to the prior, so KL and
           NLL show how far it departs.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import VAE, Context, DataInfo, ELBOTerms

from .parts.heads import FlooredHead
from .parts.no_kl import NoKLMethod


class Autoencoder(NoKLMethod):
    title = "Autoencoder"
    summary = "the basic VAE without its KL term"
    citation = "Hinton & Salakhutdinov, Science 2006 (doi 10.1126/science.1127647)"
    family = "reference"
    marker = "column"
    table_order = 5
    suites = {"controls": ["autoencoder"]}
    revision = 3
    vae_settings = "it has no KL term"
    footnotes = dict.fromkeys(
        ("iw_nll", "nll", "elbo", "kl"), "trained without the KL, so z is not matched to the prior"
    )

    @dataclass(frozen=True)
    class Config:
        floor: float = -6.0  # of the log-variance

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.head = FlooredHead(model.head, self.config.floor)
        return model

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean()
