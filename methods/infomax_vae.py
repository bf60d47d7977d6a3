"""InfoMax-VAE: the ELBO plus a critic's estimate of the mutual information.

Loss:      E_q[-log p(x|z)] + KL(q(z|x) || p(z)) - γ I, with the dual form of the mutual information under q,
           I = max_t E[t(x, z)] - E[exp(t(x, z') - 1)]; z ~ q(z|x), and z' are the z of the batch in random order.
           The critic t maximises the same I.                       (Rezaabad & Vishwanath, ISIT 2020, arXiv 1912.13361)
Defaults:  γ = 20 and, on images, a critic of three hidden layers (1000, 400 and 100 units) that reads pixels and z,
           trained by Adam with learning rate 1e-5: the authors' (AliLotfi92/InfoMaxVAE:main.py, utils/train.py). Their
           losses are summed nats, as here. γ = 5 in the reduced presets, whose images have a quarter of the pixels, as
           in ``self_critic``. Adam changes a weight by about the learning rate per update: 1e-4 in the reduced
           presets, for the same distance in the 10⁴ updates of ``small`` as in the authors' 9·10⁴.
Deviates:  the paper has no text and no vectors. There the critic reads the encoder's features, of which q(z|x) is a
           function, without a gradient. One backward pass gives the critic γ times the gradient of I; up to clipping,
           Adam removes the factor.
Note:      z' contains about one z of its own x. In a batch of B the optimal I is then about log B at most. The
           estimate can diverge: exp(t - 1) of one pair then exceeds the rest of the loss. As in the authors' code, the
           last weights are kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Phase, Range, TrainConfig, check_ranges

from .parts.auxiliary import AuxiliaryAdam, mlp

HIDDEN = (1000, 400, 100)  # units of the critic's hidden layers


class InfoMaxVAE(AuxiliaryAdam):
    title = "InfoMax-VAE"
    summary = "ELBO plus a critic's estimate of the mutual information"
    citation = "Rezaabad & Vishwanath, ISIT 2020 (arXiv 1912.13361)"
    marker = "hourglass"
    table_order = 72.7
    revision = 3
    preset_overrides = {"quick": {"gamma": 5.0, "lr": 1e-4}, "small": {"gamma": 5.0, "lr": 1e-4}}
    vae_settings = {"gamma": 0.0}
    space = {"gamma": Range(1.0, 50.0), "lr": Range(1e-5, 1e-2)}

    @dataclass(frozen=True)
    class Config:
        gamma: float = 20.0
        lr: float = 1e-5  # of the critic

        def __post_init__(self) -> None:
            check_ranges(self, "lr", "gamma")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.8 if data.modality == "text" else 1.4

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if not self.config.gamma:
            return model
        read = math.prod(data.shape) if data.modality == "image" else model.head.linear.in_features
        model.aux["critic"] = mlp((read + model.latent_dim, *HIDDEN, 1), nn.ReLU())
        return model

    def phases(self) -> Sequence[Phase]:
        return (Phase(selection_metric=None if self.config.gamma else "elbo"),)

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        h = ctx.model.features(x)  # (B, F)
        q = ctx.model.head(h)
        terms = ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))
        terms.extra["read"] = x.flatten(1) if ctx.data.modality == "image" else h.detach()
        return terms

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss = super().loss(ctx, terms)
        return loss - self.config.gamma * self.information(ctx, terms) if self.config.gamma else loss

    def information(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        """Return the estimate of the mutual information under q, a scalar in nats."""
        z, read = terms.z[:, 0], terms.extra["read"]  # (B, D), (B, …)
        order = torch.randperm(len(z), generator=ctx.generator("order"), device=z.device)
        joint, product = (ctx.model.aux["critic"](torch.cat([read, code], dim=-1)) for code in (z, z[order]))
        return joint.mean() - (product - 1).exp().mean()
