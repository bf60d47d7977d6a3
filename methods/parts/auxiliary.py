"""Base class of methods with networks beside the VAE, such as a critic or a discriminator."""

from bench.method import VAE, Method, ParamGroup


class AuxiliaryAdam(Method):
    """Trains the networks in ``aux``, if there are any, by Adam with the constant learning rate ``config.lr``."""

    def param_groups(self, model: VAE) -> dict[str, ParamGroup]:
        groups = super().param_groups(model)
        if "aux" in groups:
            groups["aux"].optimiser, groups["aux"].lr = "adam", self.config.lr
        return groups
