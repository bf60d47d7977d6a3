"""Semi-amortised VAE: the encoder's posterior is refined by steps of stochastic variational inference per example.

λ_0 = encoder(x); g_k = ∇_λ [rec + β KL](λ_k); m_k = ρ m_{k-1} - clip(g_k); λ_{k+1} = λ_k + a m_k; the loss is the
ELBO at λ_K, and its gradient flows through every refinement step into encoder and decoder. Kim et al. use K = 20
steps and He et al. K = 10. Step size and clipping are per example, so that neither depends on the batch: a = 1/32 is
their 1.0 on the mean of a batch of 32, and a norm of 28 = 5 √32 is their 5 on the gradient of that mean where examples
are alike. With other batches, of 16 or 50, these numbers stay. The gradient is exact; the reference's finite
differences are at hand too: ``gradient="differences"``, whose ``difference`` is the root mean square of the step in λ.
docs/performance.md has error and cost of both. Evaluation refines too.
"""

from dataclasses import dataclass

from bench.method import Method, check_ranges

from .parts.refinement import GRADIENTS, refine


class SemiAmortisedVAE(Method):
    summary = "encoder's posterior refined by SVI, trained through the refinement"
    citation = "Kim et al., ICML 2018"
    family = "posterior"
    table_order = 40
    suites = {"core": ["sa_vae"], "paper": ["sa_vae", "sa_vae+anneal"]}
    preset_overrides = {"quick": {"steps": 2}, "small": {"steps": 5}}
    vae_settings = {"steps": 0}

    @dataclass(frozen=True)
    class Config:
        steps: int = 10
        lr: float = 1 / 32
        momentum: float = 0.5
        clip: float = 28.0
        gradient: str = "exact"
        difference: float = 1e-3

        def __post_init__(self):
            check_ranges(self, "clip difference", "steps lr momentum", gradient=GRADIENTS)

    def expected_cost(self, train):
        return 1 + (3 if self.config.gradient == "exact" else 2) * self.config.steps

    def posterior(self, ctx, x, train):
        return refine(ctx, x, ctx.model.encode(x), differentiable=train, **vars(self.config))
