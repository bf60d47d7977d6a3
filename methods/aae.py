"""Adversarial autoencoder: a discriminator tells codes from draws of the prior, and the encoder learns to fool it.

Every step: encoder and decoder on E_q[-log p(x|z)]; the discriminator on its cross-entropy; the encoder on -log D(z), z
~ q. The three share a batch, and each is an update of its own, so there are two extra ones per step. The posterior is a
Gaussian, the second of the paper's three. The discriminator has Adam whatever the preset has. Weights are selected by
reconstruction on validation, for it does not seek the ELBO.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.method import Method, Phase, check_ranges


class AdversarialAutoencoder(Method):
    summary = "no KL, a discriminator between codes and the prior instead"
    citation = "Makhzani et al., 2015 (arXiv 1511.05644)"
    table_order = 67
    revision = 2
    incompatible_with = {"schedule": "it has no KL term that a weight could change", "kl_term": "it has no KL term"}
    footnotes = {column: "its loss has no KL, so it seeks no ELBO" for column in ("nll", "elbo", "kl")}
    vae_settings = "the KL term is what it lacks"

    @dataclass(frozen=True)
    class Config:
        hidden: int = 256
        lr: float = 1e-3  # of the discriminator

        def __post_init__(self):
            check_ranges(self, "hidden lr")

    def expected_cost(self, train):
        return 1.5

    def phases(self):
        return (Phase(selection_metric="loss"),)

    def build(self, model, data):
        hidden = self.config.hidden
        first = nn.Linear(model.latent_dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)
        model.aux["discriminator"] = nn.Sequential(*first, nn.Linear(hidden, 1))
        return model

    def param_groups(self, model):
        groups = super().param_groups(model)
        return groups | {"aux": {**groups["aux"], "optimiser": "adam", "lr": self.config.lr}}

    def loss(self, ctx, terms):
        return terms.rec.mean()

    def step(self, ctx, x):
        loss = ctx.update(lambda: self.objective(ctx, x), groups=["encoder", "decoder"])
        ctx.update(lambda: self.discriminate(ctx, x), groups=["aux"])
        ctx.update(lambda: self.fool(ctx, x), groups=["encoder"])
        return loss

    def discriminate(self, ctx, x):
        with torch.no_grad():
            z = self.posterior(ctx, x, train=True).rsample(1, ctx.generator())[:, 0]
        prior = ctx.model.prior.sample(len(z), ctx.generator("prior"), z.device)
        right = torch.cat([torch.ones_like(z[:, :1]), torch.zeros_like(z[:, :1])])
        return F.binary_cross_entropy_with_logits(ctx.model.aux["discriminator"](torch.cat([prior, z])), right)

    def fool(self, ctx, x):
        z = self.posterior(ctx, x, train=True).rsample(1, ctx.generator())[:, 0]
        return F.softplus(-ctx.model.aux["discriminator"](z)).mean()
