"""A fixed number of encoder updates before every decoder update, an ablation of aggressive training.

Loss:      the basic VAE's. Neither of the two stopping rules of ``aggressive`` applies, nor the preset's limit, because
           the cost of a step is fixed.
Defaults:  10 encoder updates; 3 in the reduced presets.
Deviates:  –
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bench.method import Context, DataInfo, Method, Range, TrainConfig, check_ranges


class FixedInnerSteps(Method):
    title = "Fixed inner steps"
    summary = "fixed number of encoder updates before each decoder update"
    citation = "an ablation of He et al., ICLR 2019 (arXiv 1901.05534)"
    family = "optimisation"
    marker = "cross"
    table_order = 51
    display_params = ("steps",)
    preset_overrides = {"quick": {"steps": 3}, "small": {"steps": 3}}
    vae_settings = {"steps": 0}
    revision = 2
    space = {"steps": Range(1, 20)}

    @dataclass(frozen=True)
    class Config:
        steps: int = 10

        def __post_init__(self) -> None:
            check_ranges(self, not_negative="steps")

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        return 1 + self.config.steps

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        if not self.config.steps:
            return super().step(ctx, x)
        for inner in range(self.config.steps):
            batch = x if inner == 0 else ctx.next_batch()
            ctx.update(partial(self.objective, ctx, batch), groups=["encoder"])
        return ctx.update(lambda: self.objective(ctx, x), groups=["decoder"])
