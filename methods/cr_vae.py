"""CR-VAE: consistency regularisation, by which an example and an altered one have posteriors alike.

L(x) + L(x~) + λ KL(q(z|x~) ‖ q(z|x)), L the ELBO's loss and x~ an augmentation: an image shifted by up to ``shift``
pixels each way, a sentence with the encoder's and decoder's words replaced by <unk> with probability ``noise``. λ = 0.1
is the paper's as we remember it; the released code has 1e-3, and cannot be run, so that the formula could not be
checked against it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.data.dataset import END, PAD, START, UNKNOWN
from bench.method import ELBOTerms, Method, check_ranges


class ConsistencyVAE(Method):
    summary = "an example and an altered one have posteriors alike"
    citation = "Sinha & Dieng, NeurIPS 2021"
    table_order = 76
    vae_settings = "it is trained on altered examples too"

    @dataclass(frozen=True)
    class Config:
        lam: float = 0.1
        shift: int = 1  # pixels
        noise: float = 0.1

        def __post_init__(self):
            check_ranges(self, not_negative="lam shift noise")

    def expected_cost(self, train):
        return 2.0

    def elbo_terms(self, ctx, x):
        terms = super().elbo_terms(ctx, x)
        altered = self.alter(x, ctx)
        q = self.posterior(ctx, altered, train=True)
        terms.extra["altered"] = ELBOTerms.from_samples(ctx.model, altered, q, q.rsample(1, ctx.generator("altered")))
        return terms

    def loss(self, ctx, terms):
        altered = terms.extra["altered"]
        q, p = altered.q, terms.q
        apart = ((q.mean - p.mean).square() + q.logvar.exp()) * (-p.logvar).exp()
        kl = 0.5 * (apart - 1 + p.logvar - q.logvar).sum(-1).mean()
        return super().loss(ctx, terms) + super().loss(ctx, altered) + self.config.lam * kl

    def alter(self, x, ctx):
        generator, device = ctx.generator("alter"), x.device
        if ctx.data.modality == "text":
            drawn = torch.rand(x.shape, generator=generator, device=device) < self.config.noise
            kept = (x == START) | (x == END) | (x == PAD)
            return x.masked_fill(drawn & ~kept, UNKNOWN)
        (batch, _, height, width), reach = x.shape, self.config.shift
        down, right = torch.randint(2 * reach + 1, (2, batch, 1), generator=generator, device=device)
        rows = (torch.arange(height, device=device) + down).unsqueeze(2)
        columns = (torch.arange(width, device=device) + right).unsqueeze(1)
        example = torch.arange(batch, device=device).view(-1, 1, 1)
        return F.pad(x, (reach,) * 4)[example, 0, rows, columns].unsqueeze(1)
