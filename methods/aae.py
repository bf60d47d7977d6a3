"""Adversarial autoencoder (AAE): a discriminator between codes and prior samples replaces the KL.

Loss:      encoder and decoder: E_q[-log p(x|z)]                                            (Makhzani et al., 2015)
           discriminator: cross-entropy of z ~ p(z) against z ~ q(z|x); encoder: -log D(z), z ~ q(z|x)
           Three updates per step, on the same batch. q is Gaussian, the second of the paper's three choices.
Defaults:  two hidden layers of 256 units, trained by Adam with learning rate 1e-3 in every preset.
Deviates:  weights are selected by the reconstruction loss on validation, because the objective is not an ELBO. The
           encoder's second update has the optimiser of the first.
Note:      The variances of q have no lower bound: they decrease during training.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Range, TrainConfig, check_ranges

from .parts.auxiliary import AuxiliaryAdam, mlp
from .parts.no_kl import NoKLMethod


class AdversarialAutoencoder(AuxiliaryAdam, NoKLMethod):
    title = "AAE"
    summary = "discriminator between codes and prior samples instead of the KL"
    citation = "Makhzani et al., 2015 (arXiv 1511.05644)"
    marker = "star8"
    table_order = 67
    revision = 2
    vae_settings = "it has no KL term"
    space = {"lr": Range(1e-4, 1e-2)}

    @dataclass(frozen=True)
    class Config:
        hidden: int = 256
        lr: float = 1e-3  # of the discriminator

        def __post_init__(self) -> None:
            check_ranges(self, "hidden lr")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.5

    def build(self, model: VAE, data: DataInfo) -> VAE:
        hidden = self.config.hidden
        model.aux["discriminator"] = mlp((model.latent_dim, hidden, hidden, 1), nn.LeakyReLU(0.2))
        return model

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        return terms.rec.mean()

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        loss = ctx.update(lambda: self.objective(ctx, x), groups=["encoder", "decoder"])
        ctx.update(lambda: self.discriminator_loss(ctx, x), groups=["aux"])
        ctx.update(lambda: self.generator_loss(ctx, x), groups=["encoder"])
        return loss

    def sample_posterior(self, ctx: Context, x: Tensor) -> Tensor:
        """Return one sample z (B, D) per example."""
        return self.posterior(ctx, x, train=True).rsample(1, ctx.generator())[:, 0]

    def discriminator_loss(self, ctx: Context, x: Tensor) -> Tensor:
        """Return the cross-entropy of prior samples (label 1) against codes (label 0)."""
        with torch.no_grad():
            z = self.sample_posterior(ctx, x)
        prior = ctx.model.prior.sample(len(z), ctx.generator("prior"), z.device)  # (B, D)
        labels = torch.cat([torch.ones_like(z[:, :1]), torch.zeros_like(z[:, :1])])  # (2B, 1)
        return F.binary_cross_entropy_with_logits(ctx.model.aux["discriminator"](torch.cat([prior, z])), labels)

    def generator_loss(self, ctx: Context, x: Tensor) -> Tensor:
        """Return -log D(z), which trains the encoder to make codes look like prior samples."""
        return F.softplus(-ctx.model.aux["discriminator"](self.sample_posterior(ctx, x))).mean()
