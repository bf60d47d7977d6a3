"""δ-VAE, its independent form: mean and variance are bounded so that every dimension's KL is at least δ for every x.

With l < u the roots of log v - v + 2δ + 1 = 0: σ = √l + (√u - √l) s(a), μ = √(2δ + 1 + log σ² - σ² + max(0, b)), s the
sigmoid, a and b the head's outputs. Then KL_d = δ + max(0, b) / 2. A rate is not information: KL is δ D and more even
where all x have the same posterior. The original's AR(1) prior over a sequence of latents is not built, for z has no
time.
"""

import math
from dataclasses import dataclass

from scipy.special import lambertw
from torch import nn

from bench.method import Method, check_ranges
from bench.models.distributions import Gaussian

TINY = 1e-8  # of a squared mean, whose root is taken


class BoundedHead(nn.Module):
    def __init__(self, head, delta):
        super().__init__()
        self.head, self.delta = head, delta
        at = -math.exp(-2 * delta - 1)  # v e^-v = e^-(2δ + 1) at both roots
        self.low, self.high = (math.sqrt(-lambertw(at, branch).real) for branch in (0, -1))

    def forward(self, h):
        q = self.head(h)
        deviation = self.low + (self.high - self.low) * q.logvar.sigmoid()
        square = 2 * self.delta + 1 + 2 * deviation.log() - deviation.square() + q.mean.relu()
        return Gaussian(square.clamp_min(TINY).sqrt(), 2 * deviation.log())


class DeltaVAE(Method):
    summary = "every dimension's KL is at least δ"
    citation = "Razavi et al., ICLR 2019"
    family = "posterior"
    table_order = 82
    display_params = ("delta",)
    footnotes = {"au_kl": "at its maximum by construction where δ > 0.01: no dimension's KL is below δ"}
    vae_settings = "no δ leaves the posterior free"

    @dataclass(frozen=True)
    class Config:
        delta: float = 0.1  # nats per dimension

        def __post_init__(self):
            check_ranges(self, "delta")

    def build(self, model, data):
        model.head = BoundedHead(model.head, self.config.delta)
        return model
