"""IAF posterior: inverse autoregressive flows make of the encoder's Gaussian a posterior with dependent dimensions.

z_0 ~ N(μ, σ²); z_{t+1} = s_t z_t + (1 - s_t) m_t with gates s_t and m_t autoregressive in z_t and given features of x.
The KL is estimated from the sample that the reconstruction has. Depth and width are DU-IAF's (Shen et al., 2021). A
richer posterior is no cure in itself: it may be as idle as a Gaussian.
"""

from dataclasses import dataclass

from torch import nn

from bench.method import ELBOTerms, Method, check_ranges

from .parts.flows import AutoregressiveFlow, Flowed


class FlowHead(nn.Module):
    def __init__(self, head, dim, flows, width):
        super().__init__()
        self.head = head
        self.flows = nn.ModuleList(AutoregressiveFlow(dim, width) for _ in range(flows))
        self.contexts = nn.ModuleList(nn.Linear(head.linear.in_features, width) for _ in range(flows))

    def forward(self, h):
        return Flowed(self.head(h), self.flows, [context(h) for context in self.contexts])


class AutoregressiveFlowPosterior(Method):
    summary = "posterior made richer by inverse autoregressive flows"
    citation = "Kingma et al., NeurIPS 2016"
    family = "posterior"
    table_order = 85
    vae_settings = {"flows": 0}

    @dataclass(frozen=True)
    class Config:
        flows: int = 2
        width: int = 60

        def __post_init__(self):
            check_ranges(self, "width", "flows")

    def build(self, model, data):
        if self.config.flows:
            model.head = FlowHead(model.head, model.latent_dim, self.config.flows, self.config.width)
        return model

    def elbo_terms(self, ctx, x):
        if not self.config.flows:
            return super().elbo_terms(ctx, x)
        q = self.posterior(ctx, x, train=True)
        z, log_q = q.sampled(1, ctx.generator())
        kl = (log_q - ctx.model.prior.log_prob(z)).mean(1)
        return ELBOTerms(x, q, z, -ctx.model.log_prob(x, z), kl, None)
