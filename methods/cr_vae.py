"""CR-VAE: consistency regularisation, similar posteriors for an example and its augmentation.

Loss:      L(x) + L(x~) + λ KL(q(z|x~) || q(z|x)), with the negative ELBO L               (Sinha & Dieng, NeurIPS 2021)
           x~: an image shifted by up to ``shift`` pixels in each direction, or a sentence in which the encoder reads
           <unk> instead of a word with probability ``noise``; the decoder's words stay those of x.
Defaults:  ``shift`` = 1 pixel, ``noise`` = 0.1. λ = 0.1, the paper's from memory; the released code
           (sinhasam/CRVAE:CRVAE/crvae.py, losses.py) has 1e-3, with a reconstruction that is a mean over pixels.
Deviates:  the released code does not run, so the formula could not be checked against it. It is for images, which it
           rotates, shifts and scales. Decoding <unk> would teach the decoder to write it. Not for vectors: no
           augmentation is known to keep the meaning of any vector.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.method import (
    END,
    PAD,
    START,
    UNKNOWN,
    Context,
    DataInfo,
    ELBOTerms,
    Method,
    Range,
    TrainConfig,
    check_ranges,
)
from bench.models.distributions import gaussian_kl


class ConsistencyVAE(Method):
    title = "CR-VAE"
    summary = "similar posteriors for an example and its augmentation"
    citation = "Sinha & Dieng, NeurIPS 2021 (arXiv 2105.14859)"
    marker = "star3_down"
    table_order = 76
    modalities = ("image", "text")
    revision = 2
    vae_settings = "it also trains on augmented examples"
    space = {"lam": Range(0.01, 1.0)}

    @dataclass(frozen=True)
    class Config:
        lam: float = 0.1
        shift: int = 1  # pixels
        noise: float = 0.1

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="lam shift noise")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 2.0

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        terms = super().elbo_terms(ctx, x)
        augmented = self.augment(ctx, x)
        q = self.posterior(ctx, augmented, train=True)
        decoded = x if ctx.data.modality == "text" else augmented
        z = q.rsample(1, ctx.generator("altered"))
        terms.extra["augmented"] = ELBOTerms.from_samples(ctx.model, decoded, q, z)
        return terms

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        augmented = terms.extra["augmented"]
        kl = gaussian_kl(augmented.q, terms.q).mean()
        return super().loss(ctx, terms) + super().loss(ctx, augmented) + self.config.lam * kl

    def augment(self, ctx: Context, x: Tensor) -> Tensor:
        """Return a randomly altered copy of the batch x (B, …)."""
        generator, device = ctx.generator("alter"), x.device
        if ctx.data.modality == "text":
            replaced = torch.rand(x.shape, generator=generator, device=device) < self.config.noise
            special = (x == START) | (x == END) | (x == PAD)
            return x.masked_fill(replaced & ~special, UNKNOWN)
        (batch, channels, height, width), shift = x.shape, self.config.shift
        down, right = torch.randint(2 * shift + 1, (2, batch, 1), generator=generator, device=device)
        rows = (torch.arange(height, device=device) + down).unsqueeze(2)  # (B, H, 1)
        columns = (torch.arange(width, device=device) + right).unsqueeze(1)  # (B, 1, W)
        example = torch.arange(batch, device=device).view(-1, 1, 1)
        padded = F.pad(x, (shift,) * 4)
        return torch.stack([padded[example, channel, rows, columns] for channel in range(channels)], dim=1)
