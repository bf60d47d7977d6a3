"""A higher learning rate for the encoder: the cheapest way to let inference lag less behind the model.

The VAE, its encoder's learning rate times ``scale``: an ablation of aggressive training.
"""

from dataclasses import dataclass

from bench.method import Method, check_ranges


class EncoderLearningRate(Method):
    summary = "encoder with a higher learning rate"
    citation = "an ablation of He et al., ICLR 2019"
    family = "optimisation"
    table_order = 52
    display_params = ("scale",)
    vae_settings = {"scale": 1.0}

    @dataclass(frozen=True)
    class Config:
        scale: float = 5.0

        def __post_init__(self):
            check_ranges(self, "scale")

    def param_groups(self, model):
        groups = super().param_groups(model)
        return groups | {"encoder": {**groups["encoder"], "lr_scale": self.config.scale}}
