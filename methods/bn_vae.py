"""BN-VAE: batch-normalised posterior means with a fixed scale, so that their variance cannot vanish.

Loss:      the basic VAE's. Version 1: μ' = γ (μ - m_B) / sd_B + b, with γ fixed, b learned and σ unchanged. Then
           E_x KL ≥ ½ Σ_d (γ² + b_d²) ≥ D γ² / 2.                                              (Zhu et al., ACL 2020)
           Version 2: μ' = sqrt(τ + (1-τ) s(θ)) BN(μ), σ' = sqrt((1-τ) s(-θ)) BN(σ), with the sigmoid s and θ learned,
           which keeps the second moment of the aggregate posterior at 1.
Defaults:  γ = 0.6, the authors' middle value of 0.5, 0.6, 0.7; they anneal from 0: ``bn_vae+anneal(start=0)``.
Deviates:  statistics in evaluation are recomputed over training batches; eps is 1e-12, not 1e-5. Version 2 follows
           public re-implementations; the paper's definition could not be verified.
Note:      Version 1 and the text encoder's initialisation (PyTorch's defaults) were compared with valdersoul/bn-vae:
           modules/encoders/enc_lstm.py. The authors have no images: their encoder starts as the basic VAE's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Gaussian, Range, check_ranges

from .parts.batch_norm import AffineFreeBatchNorm, BatchNormMethod, reset_text_encoder

MIN_VARIANCE = 1e-8  # added before the logarithm


class BatchNormHead(nn.Module):
    """Features (B, F) -> a Gaussian with normalised parameters (B, D); ``config`` is ``BatchNormVAE.Config``."""

    def __init__(self, head: nn.Module, dim: int, config: Any) -> None:
        super().__init__()
        self.head, self.config = head, config
        self.mean = AffineFreeBatchNorm(dim)
        self.shift = nn.Parameter(torch.zeros(dim))  # b of version 1, θ of version 2
        if config.version == 2:
            self.deviation = AffineFreeBatchNorm(dim)

    def forward(self, h: Tensor) -> Gaussian:
        q, config = self.head(h), self.config
        mean = self.mean(q.mean)
        if config.version == 1:
            return Gaussian(config.gamma * mean + self.shift, q.logvar)
        raw_deviation = q.logvar  # (B, D): in version 2 the head's second output stands for σ, not for log σ²
        learned = (1 - config.tau) * self.shift.sigmoid()  # (D,)
        variance = (1 - config.tau - learned) * self.deviation(raw_deviation).square()
        return Gaussian((config.tau + learned).sqrt() * mean, (variance + MIN_VARIANCE).log())


class BatchNormVAE(BatchNormMethod):
    title = "BN-VAE"
    summary = "batch-normalised posterior means with a fixed spread"
    citation = "Zhu et al., ACL 2020 (arXiv 2004.12585)"
    family = "posterior"
    marker = "diamond"
    table_order = 80
    revision = 3
    display_params = ("gamma",)
    footnotes = {"au": "maximal by construction: the spread of posterior means is fixed"}
    vae_settings = "posterior means are always normalised"
    space = {"gamma": Range(0.3, 1.2)}

    @dataclass(frozen=True)
    class Config:
        gamma: float = 0.6
        version: int = 1
        tau: float = 0.5  # of version 2

        def __post_init__(self) -> None:
            check_ranges(self, "gamma", "tau", at_most_one="tau", version=(1, 2))

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if data.modality == "text":
            reset_text_encoder(model)
        model.head = BatchNormHead(model.head, model.latent_dim, self.config)
        return model
