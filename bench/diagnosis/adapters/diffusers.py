"""``AutoencoderKL`` of diffusers: ``from bench.diagnosis.adapters.diffusers import diagnose``."""

from __future__ import annotations

import math
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from bench.diagnosis import api
from bench.diagnosis.adapters import evaluation_mode
from bench.diagnosis.diagnosis import Diagnosis


def diagnose(model: AutoencoderKL, images: Tensor, scale: float | None = None, **options: Any) -> Diagnosis:
    """Diagnose an autoencoder on images ``[N, C, H, W]``, scaled as for training (-1 to 1).

    Its loss is no likelihood. With ``scale``, the standard deviation of a Gaussian around the decoded image, the use
    of z by the decoder is measured, too. ``options`` are those of ``bench.diagnose``.
    """

    def log_prob(x: Tensor, z: Tensor) -> Tensor:
        assert scale is not None
        standardised = (model.decode(z).sample - x).flatten(1) / scale
        return -(0.5 * standardised.square() + math.log(scale) + 0.5 * math.log(2 * math.pi)).sum(1)

    options = ({} if scale is None else {"log_prob": log_prob}) | options
    with evaluation_mode(model):
        return api.diagnose(lambda x: model.encode(x).latent_dist, images, **options)
