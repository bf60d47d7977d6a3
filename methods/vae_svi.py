"""VAE+SVI: SVI from where the encoder puts it, each trained on its own loss.

λ_0 = encoder(x), λ_K after K steps as in ``sa_vae``. The decoder is trained on the ELBO at λ_K, the encoder on that at
λ_0: no gradient passes through the refinement, which is what the semi-amortised VAE adds. Evaluation refines too. Kim
et al.'s ablation.
"""

from dataclasses import dataclass

from bench.method import ELBOTerms, Method, check_ranges
from bench.models.vae import fixed_statistics, frozen

from .parts.refinement import refine


class VAEWithSVI(Method):
    summary = "encoder's posterior refined by SVI, each trained on its own"
    citation = "Kim et al., ICML 2018"
    family = "posterior"
    table_order = 42
    preset_overrides = {"quick": {"steps": 2}, "small": {"steps": 5}}
    vae_settings = {"steps": 0}

    @dataclass(frozen=True)
    class Config:
        steps: int = 10
        lr: float = 1 / 32
        momentum: float = 0.5
        clip: float = 28.0

        def __post_init__(self):
            check_ranges(self, "clip", "steps lr momentum")

    def expected_cost(self, train):
        return 1.8 + self.config.steps

    def posterior(self, ctx, x, train):
        return self.refined(ctx, x, ctx.model.encode(x))

    def refined(self, ctx, x, q):
        return refine(ctx, x, q, differentiable=False, **vars(self.config))

    def elbo_terms(self, ctx, x):
        if not self.config.steps:
            return super().elbo_terms(ctx, x)
        first = ctx.model.encode(x)
        q = self.refined(ctx, x, first)
        terms = ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))
        terms.extra["first"] = first
        return terms

    def loss(self, ctx, terms):
        loss = super().loss(ctx, terms)
        if "first" not in terms.extra:
            return loss
        own = self.encoder_loss(ctx, terms)
        return loss + own - own.detach()  # its gradient, while the loss that is shown stays the ELBO's

    def encoder_loss(self, ctx, terms):
        q, model = terms.extra["first"], ctx.model
        generative = model.submodules()["decoder"]
        with frozen(p for module in generative for p in module.parameters()), fixed_statistics(*generative):
            first = ELBOTerms.from_samples(model, terms.x, q, q.rsample(1, ctx.generator("first")))
        return super().loss(ctx, first)
