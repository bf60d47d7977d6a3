"""VAEs of pythae: ``from bench.diagnosis.adapters.pythae import diagnose``."""

from __future__ import annotations

import math
from typing import Any

import torch
from pythae.models import VAE
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import UserError
from bench.diagnosis import api
from bench.diagnosis.adapters import evaluation_mode
from bench.diagnosis.diagnosis import Diagnosis


def diagnose(model: VAE, data: Tensor, **options: Any) -> Diagnosis:
    """Diagnose a VAE of pythae, or a subclass with a Gaussian encoder and a N(0, I) prior, on x ``[N, …]``.

    The likelihood is that of pythae's loss: Bernoulli for ``reconstruction_loss="bce"``, a Gaussian of unit variance
    for ``"mse"``. A configuration with ``beta`` gives the KL weight. ``options`` are those of ``bench.diagnose``.
    """
    loss = getattr(model.model_config, "reconstruction_loss", None)
    if not isinstance(model, VAE) or loss not in ("bce", "mse"):
        raise UserError(
            f"{type(model).__name__} has no Gaussian or Bernoulli decoder: give its posteriors to bench.diagnose"
        )

    def posterior(x: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(x)
        if "log_covariance" not in output:
            raise UserError(f"the encoder of {type(model).__name__} returns no log_covariance: its q is not Gaussian")
        return output["embedding"], output["log_covariance"]

    def log_prob(x: Tensor, z: Tensor) -> Tensor:
        mean, target = model.decoder(z)["reconstruction"].flatten(1), x.flatten(1)
        if loss == "bce":
            return -F.binary_cross_entropy(mean, target, reduction="none").sum(1)
        return -0.5 * ((mean - target).square() + math.log(2 * math.pi)).sum(1)

    options = {"log_prob": log_prob, "kl_weight": getattr(model.model_config, "beta", None)} | options
    with evaluation_mode(model):
        return api.diagnose(posterior, torch.as_tensor(data), **options)
