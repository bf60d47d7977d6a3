"""Networks in addition to the VAE, such as a critic or a discriminator, and the base class of methods with them."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from bench.method import VAE, Method, ParamGroup


def mlp(widths: Sequence[int], activation: nn.Module) -> nn.Sequential:
    """Return linear layers between consecutive ``widths``, with an activation without state after all but the last."""
    layers = [layer for inputs, outputs in pairwise(widths) for layer in (nn.Linear(inputs, outputs), activation)]
    return nn.Sequential(*layers[:-1])


class AuxiliaryAdam(Method):
    """Trains the networks in ``aux``, if there are any, by Adam with the constant learning rate ``config.lr``."""

    def param_groups(self, model: VAE) -> dict[str, ParamGroup]:
        groups = super().param_groups(model)
        if "aux" in groups:
            groups["aux"].optimiser, groups["aux"].lr = "adam", self.config.lr
        return groups
