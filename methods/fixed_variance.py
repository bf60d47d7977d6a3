"""Fixed posterior variance: only the mean of the posterior depends on the example, so that the KL cannot vanish.

Loss:      the basic VAE's, with q(z|x) = N(μ(x), σ² I) and a constant σ²: KL = ½ |μ|² + D/2 (σ² - 1 - log σ²), of
           which the second term is a floor.
Defaults:  σ² = 0.5, a floor of 0.097 nats per dimension, as that of ``delta_vae``.
Deviates:  –
Note:      Known from the option --fix_var (no default) of bohanli/vae-pretraining-encoder:modules/encoders/enc_lstm.py
           (Li et al., EMNLP 2019); no paper that proposes it alone was found. It is the Gaussian counterpart of a
           fixed κ (``vmf_vae``). A KL above 0 does not imply mutual information: at the floor all means are 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Gaussian, Method, Range, check_ranges


class FixedVarianceHead(nn.Module):
    """Features (B, F) -> a Gaussian (B, D) with the mean of ``head`` and a constant variance."""

    def __init__(self, head: nn.Module, variance: float) -> None:
        super().__init__()
        self.head, self.logvar = head, math.log(variance)

    def forward(self, h: Tensor) -> Gaussian:
        mean = self.head(h).mean
        return Gaussian(mean, torch.full_like(mean, self.logvar))


class FixedVariance(Method):
    title = "Fixed variance"
    summary = "constant variance of the posterior"
    citation = "code of Li et al., EMNLP 2019 (arXiv 1909.00868)"
    family = "posterior"
    marker = "bar"
    table_order = 82.5
    display_params = ("variance",)
    footnotes = {"au_kl": "maximal by construction unless σ² is near 1: every dimension has a KL above 0"}
    vae_settings = "every fixed variance restricts the posterior"
    space = {"variance": Range(0.05, 0.95)}

    @dataclass(frozen=True)
    class Config:
        variance: float = 0.5  # σ²

        def __post_init__(self) -> None:
            check_ranges(self, "variance")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.head = FixedVarianceHead(model.head, self.config.variance)
        return model
