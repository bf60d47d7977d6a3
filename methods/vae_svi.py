"""VAE+SVI: SVI starts from the encoder's posterior; encoder and decoder are trained by their own losses.

Loss:      the ELBO's at λ_K for the decoder and at λ_0 = encoder(x) for the encoder, with K steps as in ``sa_vae``. No
           gradient passes through the refinement. Evaluation refines too.     (ablation of Kim et al., ICML 2018)
Defaults:  as ``sa_vae``.
Deviates:  clipping is per example, as in ``sa_vae``.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import Context, DataInfo, ELBOTerms, Gaussian, Method, Posterior, Range, TrainConfig, check_ranges
from bench.models.vae import fixed_statistics, frozen

from .parts.refinement import STEP_COST, refine


class VAEWithSVI(Method):
    title = "VAE + SVI"
    summary = "encoder's posterior refined by SVI, without gradients through it"
    citation = "Kim et al., ICML 2018 (arXiv 1802.02550)"
    family = "posterior"
    marker = "triangle_up"
    table_order = 42
    revision = 2
    preset_overrides = {"quick": {"steps": 2}, "small": {"steps": 3}}
    vae_settings = {"steps": 0}
    space = {"lr": Range(0.1, 2.0), "momentum": Range(0.0, 0.9, log=False)}

    @dataclass(frozen=True)
    class Config:
        steps: int = 10
        lr: float = 1.0  # on the mean loss of a batch
        momentum: float = 0.5
        clip: float = 5.0  # of that loss's gradient

        def __post_init__(self) -> None:
            check_ranges(self, "clip", "steps lr momentum")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1.8 + STEP_COST * self.config.steps

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        return self.refined(ctx, x, ctx.model.encode(x))

    def refined(self, ctx: Context, x: Tensor, q: Gaussian) -> Gaussian:
        """Return q after K steps, without gradients to q."""
        return refine(ctx, x, q, differentiable=False, **vars(self.config))

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        if not self.config.steps:
            return super().elbo_terms(ctx, x)
        initial = ctx.model.encode(x)
        q = self.refined(ctx, x, initial)
        terms = ELBOTerms.from_samples(ctx.model, x, q, q.rsample(1, ctx.generator()))
        terms.extra["initial"] = initial
        return terms

    def loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        loss = super().loss(ctx, terms)
        if "initial" not in terms.extra:
            return loss
        encoder_loss = self.encoder_loss(ctx, terms)
        return loss + encoder_loss - encoder_loss.detach()  # adds its gradient, but not its value

    def encoder_loss(self, ctx: Context, terms: ELBOTerms) -> Tensor:
        """Return the loss at λ_0 with the generative model fixed, a scalar in nats."""
        q, model = terms.extra["initial"], ctx.model
        generative = model.submodules()["decoder"]
        with frozen(p for module in generative for p in module.parameters()), fixed_statistics(*generative):
            initial = ELBOTerms.from_samples(model, terms.x, q, q.rsample(1, ctx.generator("first")))
        return super().loss(ctx, initial)
