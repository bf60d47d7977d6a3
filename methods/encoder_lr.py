"""Higher learning rate for the encoder, an ablation of aggressive training.

Loss:      the basic VAE's; the encoder's learning rate is multiplied by ``scale``.
Defaults:  scale 5.
Deviates:  –
"""

from dataclasses import dataclass

from bench.method import VAE, Method, ParamGroup, Range, check_ranges


class EncoderLearningRate(Method):
    title = "Encoder learning rate"
    summary = "higher learning rate for the encoder"
    citation = "an ablation of He et al., ICLR 2019 (arXiv 1901.05534)"
    family = "optimisation"
    marker = "star4_cross"
    table_order = 52
    display_params = ("scale",)
    vae_settings = {"scale": 1.0}
    space = {"scale": Range(1.5, 20.0)}

    @dataclass(frozen=True)
    class Config:
        scale: float = 5.0

        def __post_init__(self) -> None:
            check_ranges(self, "scale")

    def param_groups(self, model: VAE) -> dict[str, ParamGroup]:
        groups = super().param_groups(model)
        groups["encoder"].lr_scale = self.config.scale
        return groups
