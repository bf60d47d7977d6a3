"""Scale-VAE: the decoder reads samples of posteriors with rescaled means; the KL is that of the unscaled ones.

Loss:      E[-log p(x|z)] + KL(N(μ, σ²) || p(z)), z ~ N(f μ, σ²), f_d = spread / sd_B(μ_d).
           (Song et al., LREC-COLING 2024)
Defaults:  spread 1. In evaluation f uses averages over training batches.
Deviates:  metrics use the scaled posterior, whose samples the decoder reads; the KL in the loss is smaller. The text
           encoder starts at PyTorch's defaults, as that of ``bn_vae``: at the basic VAE's start the means differ by
           10⁻⁵, and f would scale their common part to 17 standard deviations of the prior. Known from the abstract
           and a re-implementation; the paper's later switch to one f for all dimensions could not be verified and is
           omitted.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from bench.method import VAE, Context, DataInfo, ELBOTerms, Gaussian, Range, check_ranges

from .parts.batch_norm import AffineFreeBatchNorm, BatchNormMethod, reset_text_encoder


class ScaledGaussian(Gaussian):
    """A Gaussian (B, D) whose means are scaled by ``factor`` (D,)."""

    def __init__(self, unscaled: Gaussian, factor: Tensor) -> None:
        super().__init__(factor * unscaled.mean, unscaled.logvar)
        self.unscaled = unscaled


class ScaledHead(nn.Module):
    """Features (B, F) -> ``ScaledGaussian``."""

    def __init__(self, head: nn.Module, dim: int, spread: float) -> None:
        super().__init__()
        self.head, self.spread, self.norm = head, spread, AffineFreeBatchNorm(dim)

    def forward(self, h: Tensor) -> ScaledGaussian:
        q = self.head(h)
        self.norm(q.mean)  # updates the running statistics
        use_batch = self.training and len(h) > 1
        variance = q.mean.var(0, correction=0) if use_batch else self.norm.running_var  # (D,)
        return ScaledGaussian(q, self.spread / (variance + self.norm.eps).sqrt())


class ScaleVAE(BatchNormMethod):
    title = "Scale-VAE"
    summary = "means scaled up for the decoder, not for the KL"
    citation = "Song et al., LREC-COLING 2024 (ACL Anthology 2024.lrec-main.1250)"
    family = "posterior"
    marker = "wide_diamond"
    table_order = 84
    revision = 3
    display_params = ("spread",)
    footnotes = {
        "au": "nearly maximal by construction: the spread of posterior means is fixed",
        "kl": "of the scaled posterior, which the decoder sees; its loss has the KL of the unscaled one",
    }
    vae_settings = "posterior means are always scaled"
    space = {"spread": Range(0.3, 3.0)}

    @dataclass(frozen=True)
    class Config:
        spread: float = 1.0

        def __post_init__(self) -> None:
            check_ranges(self, "spread")

    def build(self, model: VAE, data: DataInfo) -> VAE:
        if data.modality == "text":
            reset_text_encoder(model)
        model.head = ScaledHead(model.head, model.latent_dim, self.config.spread)
        return model

    def elbo_terms(self, ctx: Context, x: Tensor) -> ELBOTerms:
        terms = super().elbo_terms(ctx, x)
        terms.kl_dim = ctx.model.prior.kl_dim(terms.q.unscaled)  # (B, D)
        terms.kl = ctx.model.prior.kl(terms.q.unscaled)  # (B,)
        return terms
