"""A model for a data set, by its modality."""

from __future__ import annotations

import math

import torch
from torch import nn

from bench.core.config import ImageModelConfig, TextModelConfig
from bench.data.dataset import DataInfo
from bench.models.image import build_image_model
from bench.models.text import build_text_model
from bench.models.vae import VAE


def build_model(config: ImageModelConfig | TextModelConfig, data: DataInfo, latent: bool = True) -> VAE:
    """A freshly initialised model of these sizes for ``data`` as ``bench.data.modelled`` describes it; without a
    latent, the decoder's autoregressive model alone."""
    if isinstance(config, ImageModelConfig):
        return build_image_model(config, latent)
    return build_text_model(config, data.vocabulary, data.shape[0], latent)


def parameters(config: ImageModelConfig | TextModelConfig, data: DataInfo) -> float:
    """How many parameters a model of these sizes has, without making them; infinite where no memory could hold them."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build_model(config, data).parameters())
    except (RuntimeError, OverflowError, TypeError):  # a size beyond what torch counts in
        return math.inf


def reference_parameters(module: nn.Module) -> int:
    """Parameters as the reference counts them: masked kernels whole, with the taps that are always zero."""
    total = sum(p.numel() for p in module.parameters())
    for m in module.modules():
        if (whole := getattr(m, "reference_parameters", None)) is not None:
            total += whole - m.weight.numel()
    return total
