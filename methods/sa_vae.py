"""SA-VAE (semi-amortised VAE): the encoder's posterior is refined by SVI steps, with gradients through them.

Loss:      E_q[-log p(x|z)] + β KL at λ_K; λ_0 = encoder(x), g_k = ∇_λ [rec + β KL](λ_k), m_k = ρ m_{k-1} - clip(g_k),
           λ_{k+1} = λ_k + a m_k. The gradient passes through every step to encoder and decoder. Evaluation refines too.
           (Kim et al., ICML 2018, Algorithm 1)
Defaults:  K = 10, as in He et al. (2019; Kim et al. use 20), and fewer in the reduced presets; ρ = 0.5. ``lr`` = 1 and
           ``clip`` = 5 are the authors', whose loss is the mean of a batch: with the preset's batch size B, a = lr / B
           and clip √B per example, 1/50 and 35 for images and 1/32 and 28 for text.
Deviates:  clipping is per example: the same as the authors', who clip the gradient of a batch, if examples are alike.
           The gradient is exact. ``gradient="differences"`` uses finite differences as the authors' code does, with a
           step in λ of root mean square ``difference``. That code also clips the gradients of every step backwards
           through the refinement; here only those of the parameters are clipped, as for all methods.
Note:      Compared with harvardnlp/sa-vae: optim_n2n.py, train_text.py, train_img.py.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.method import Context, DataInfo, Method, Posterior, Range, TrainConfig, check_ranges

from .parts.refinement import GRADIENT_COST, GRADIENTS, refine


class SemiAmortisedVAE(Method):
    title = "SA-VAE"
    summary = "encoder's posterior refined by SVI, trained through the refinement"
    citation = "Kim et al., ICML 2018 (arXiv 1802.02550)"
    family = "posterior"
    marker = "square"
    table_order = 40
    revision = 2
    suites = {"core": ["sa_vae"], "paper": ["sa_vae", "sa_vae+anneal"]}
    preset_overrides = {"quick": {"steps": 2}, "small": {"steps": 3}}
    vae_settings = {"steps": 0}
    space = {"lr": Range(0.1, 2.0), "momentum": Range(0.0, 0.9, log=False)}

    @dataclass(frozen=True)
    class Config:
        steps: int = 10
        lr: float = 1.0  # on the mean loss of a batch
        momentum: float = 0.5
        clip: float = 5.0  # of that loss's gradient
        gradient: str = "exact"
        difference: float = 1e-3

        def __post_init__(self) -> None:
            check_ranges(self, "clip difference", "steps lr momentum", gradient=GRADIENTS)

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1 + GRADIENT_COST[self.config.gradient][data.modality] * self.config.steps

    def expected_memory(self, train: TrainConfig) -> float:
        return 1 + 0.7 * self.config.steps  # measured for images; 0.12 for text of 12 words

    def posterior(self, ctx: Context, x: Tensor, train: bool) -> Posterior:
        return refine(ctx, x, ctx.model.encode(x), differentiable=train, **vars(self.config))
