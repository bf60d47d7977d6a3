"""A fixed number of encoder updates before every decoder update, from the first step to the last.

Aggressive training without its two rules: neither does an inner loop end when the loss stops falling, nor the whole
when mutual information does. An ablation; it stops where the preset's cap on extra updates does.
"""

from dataclasses import dataclass

from bench.method import Method, check_ranges


class FixedInnerSteps(Method):
    summary = "a fixed number of encoder updates before each decoder update"
    citation = "an ablation of He et al., ICLR 2019"
    family = "optimisation"
    table_order = 51
    display_params = ("steps",)
    preset_overrides = {"quick": {"steps": 3}, "small": {"steps": 3}}
    vae_settings = {"steps": 0}

    @dataclass(frozen=True)
    class Config:
        steps: int = 10

        def __post_init__(self):
            check_ranges(self, not_negative="steps")

    def expected_cost(self, train):
        return 1 + 0.8 * self.config.steps

    def step(self, ctx, x):
        if not self.config.steps or ctx.encoder_updates_left() < self.config.steps:
            return super().step(ctx, x)
        for inner in range(self.config.steps):
            batch = x if inner == 0 else ctx.next_batch()
            ctx.update(lambda batch=batch: self.objective(ctx, batch), groups=["encoder"])
        return ctx.update(lambda: self.objective(ctx, x), groups=["decoder"])
