"""IAF posterior: inverse autoregressive flows transform the encoder's Gaussian.

Loss:      the basic VAE's, with z_0 ~ N(μ, σ²) and z_{t+1} = s_t z_t + (1 - s_t) m_t, where gates s_t and shifts m_t
           are autoregressive in z_t and depend on features of x.                      (Kingma et al., NeurIPS 2016)
           The KL is estimated from the sample of the reconstruction.
Defaults:  two flows, each a network of two hidden layers with 60 ReLU units per dimension, as in DU-IAF (Shen et al.,
           2021); 10 per dimension in the reduced presets, because densities of all pairs are expensive.
Deviates:  the encoder's Gaussian has log-variances, where DU-IAF has softplus scales; units are connected in the order
           of their degrees, there at random; the context's layer starts at PyTorch's default, there as the encoder.
Note:      A more flexible posterior alone does not prevent collapse. Compared with SmilesDZgk/DU-VAE:
           modules/encoders/flow.py, enc_flow.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Method, Range, check_ranges

from .parts.flows import AutoregressiveFlow, FlowPosterior


class FlowHead(nn.Module):
    """Features (B, F) -> ``FlowPosterior`` with a context (B, 2 D)."""

    def __init__(self, head: nn.Module, dim: int, flows: int, width: int) -> None:
        super().__init__()
        self.head, self.context = head, nn.Linear(head.linear.in_features, 2 * dim)
        self.flows = nn.ModuleList(AutoregressiveFlow(dim, width, context=2 * dim) for _ in range(flows))

    def forward(self, h: Tensor) -> FlowPosterior:
        flows: Sequence[AutoregressiveFlow] = self.flows
        return FlowPosterior(self.head(h), flows, self.context(h))


class AutoregressiveFlowPosterior(Method):
    title = "IAF posterior"
    summary = "posterior transformed by inverse autoregressive flows"
    citation = "Kingma et al., NeurIPS 2016 (arXiv 1606.04934)"
    family = "posterior"
    marker = "star"
    table_order = 85
    revision = 3
    preset_overrides = {"quick": {"width": 10}, "small": {"width": 10}}
    vae_settings = {"flows": 0}
    space = {"flows": Range(1, 4)}

    @dataclass(frozen=True)
    class Config:
        flows: int = 2
        width: int = 60  # hidden units per dimension

        def __post_init__(self) -> None:
            check_ranges(self, "width", "flows")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if self.config.flows:
            model.head = FlowHead(model.head, model.latent_dim, self.config.flows, self.config.width)
        return model

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        if not self.config.flows:
            return super().elbo_terms(ctx, x)
        q: FlowPosterior = ctx.model.encode(x)
        z, log_q = q.sample_with_log_prob(1, ctx.generator())
        kl = (log_q - ctx.model.prior.log_prob(z)).mean(1)  # (B,)
        return ELBOTerms(x, q, z, -ctx.model.log_prob(x, z), kl, None)
