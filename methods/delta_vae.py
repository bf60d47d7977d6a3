"""δ-VAE with an independent prior: bounded posterior parameters keep the KL of every dimension at δ or more.

Loss:      the basic VAE's. With the roots l < u of log v - v + 2δ + 1 = 0 and the head's outputs a, b:
           σ = √l + (√u - √l) sigmoid(a), μ = sqrt(2δ + 1 + log σ² - σ² + max(0, b)). Then KL_d = δ + max(0, b) / 2.
           (Razavi et al., ICLR 2019)
Defaults:  δ = 0.1 nats per dimension.
Deviates:  the paper's AR(1) prior needs a sequence of latents, which these models do not have.
Note:      A KL above 0 does not imply mutual information: it is at least δ D even if all posteriors are the same.
           Where b < 0 for every example, as on text after the first updates of SGD, no gradient raises b again: the KL
           is δ D, and posteriors differ in σ and in the mean that σ implies.
"""

import math
from dataclasses import dataclass

from scipy.special import lambertw
from torch import Tensor, nn

from bench.method import VAE, DataInfo, Gaussian, Method, Range, check_ranges

MIN_SQUARED_MEAN = 1e-8  # for the gradient of the square root


class BoundedHead(nn.Module):
    """Features (B, F) -> a Gaussian (B, D) with KL_d ≥ δ."""

    def __init__(self, head: nn.Module, delta: float) -> None:
        super().__init__()
        self.head, self.delta = head, delta
        argument = -math.exp(-2 * delta - 1)  # the roots satisfy -v e^-v = -e^-(2δ + 1)
        self.low, self.high = (math.sqrt(-lambertw(argument, branch).real) for branch in (0, -1))

    def forward(self, h: Tensor) -> Gaussian:
        q = self.head(h)
        a, b = q.logvar, q.mean  # (B, D): unconstrained outputs of the head
        deviation = self.low + (self.high - self.low) * a.sigmoid()
        squared_mean = 2 * self.delta + 1 + 2 * deviation.log() - deviation.square() + b.relu()
        return Gaussian(squared_mean.clamp_min(MIN_SQUARED_MEAN).sqrt(), 2 * deviation.log())


class DeltaVAE(Method):
    title = "δ-VAE"
    summary = "KL of every dimension at least δ"
    citation = "Razavi et al., ICLR 2019 (arXiv 1901.03416)"
    family = "posterior"
    marker = "pentagon"
    table_order = 82
    display_params = ("delta",)
    footnotes = {"au_kl": "maximal by construction if δ > 0.01: the KL of every dimension is at least δ"}
    vae_settings = "every δ restricts the posterior"
    space = {"delta": Range(0.02, 0.5)}

    @dataclass(frozen=True)
    class Config:
        delta: float = 0.1  # nats per dimension

        def __post_init__(self) -> None:
            check_ranges(self, "delta")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        model.head = BoundedHead(model.head, self.config.delta)
        return model
