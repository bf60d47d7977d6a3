"""Build the model of a data set, and count its parameters."""

from __future__ import annotations

import math

import torch
from torch import nn

from bench.core.config import ARCHITECTURES, ModelConfig, model_name
from bench.core.errors import UserError
from bench.data.dataset import DataInfo
from bench.models.registry import parse_model
from bench.models.vae import VAE


def build_model(config: ModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """Return a freshly initialised model for the data; without a latent, the decoder alone."""
    module, settings = parse_model(config.architecture or ARCHITECTURES[data.modality])
    if (getattr(config, "likelihood", "") or data.values != "binary") and not getattr(module, "ANY_LIKELIHOOD", False):
        name = model_name(config, data.modality)
        other = "cnn" if data.modality == "image" else "mlp"
        raise UserError(f"model '{name}' has its own likelihood of binary values: use --model {other} for another")
    return module.build(settings, config, data, latent)


def parameters(config: ModelConfig, data: DataInfo) -> float:
    """Return the number of parameters without allocating them; infinite if it overflows."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build_model(config, data).parameters())
    except (RuntimeError, OverflowError, TypeError):  # sizes beyond torch's integers
        return math.inf


def reference_parameters(module: nn.Module) -> int:
    """Return the number of parameters as the reference counts them, including masked kernel entries."""
    total = sum(p.numel() for p in module.parameters())
    for m in module.modules():
        if (count := getattr(m, "reference_parameters", None)) is not None:
            total += count - m.weight.numel()
    return total
