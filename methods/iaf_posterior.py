"""IAF posterior: inverse autoregressive flows transform the encoder's Gaussian.

Loss:      the basic VAE's, with z_0 ~ N(μ, σ²) and z_{t+1} = s_t z_t + (1 - s_t) m_t, where gates s_t and shifts m_t
           are autoregressive in z_t and depend on features of x.                      (Kingma et al., NeurIPS 2016)
           The KL is estimated from the sample of the reconstruction.
Defaults:  two flows of width 60, as in DU-IAF (Shen et al., 2021).
Deviates:  –
Note:      A more flexible posterior alone does not prevent collapse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Method, check_ranges

from .parts.flows import AutoregressiveFlow, FlowPosterior


class FlowHead(nn.Module):
    """Features (B, F) -> ``FlowPosterior``."""

    def __init__(self, head: nn.Module, dim: int, flows: int, width: int) -> None:
        super().__init__()
        self.head = head
        self.flows = nn.ModuleList(AutoregressiveFlow(dim, width) for _ in range(flows))
        self.contexts = nn.ModuleList(nn.Linear(head.linear.in_features, width) for _ in range(flows))

    def forward(self, h: Tensor) -> FlowPosterior:
        flows: Sequence[AutoregressiveFlow] = self.flows
        return FlowPosterior(self.head(h), flows, [context(h) for context in self.contexts])


class AutoregressiveFlowPosterior(Method):
    summary = "posterior transformed by inverse autoregressive flows"
    citation = "Kingma et al., NeurIPS 2016"
    family = "posterior"
    table_order = 85
    vae_settings = {"flows": 0}

    @dataclass(frozen=True)
    class Config:
        flows: int = 2
        width: int = 60

        def __post_init__(self) -> None:
            check_ranges(self, "width", "flows")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if self.config.flows:
            model.head = FlowHead(model.head, model.latent_dim, self.config.flows, self.config.width)
        return model

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        q = self.posterior(ctx, x, train=True)
        if not isinstance(q, FlowPosterior):
            return ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))
        z, log_q = q.sample_with_log_prob(1, ctx.generator())
        kl = (log_q - ctx.model.prior.log_prob(z)).mean(1)  # (B,)
        return ELBOTerms(x, q, z, -ctx.model.log_prob(x, z), kl, None)
