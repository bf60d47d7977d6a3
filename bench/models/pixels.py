"""Decoders of binary images that are autoregressive over pixels in raster order: their base class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelDecoder(nn.Module):
    """p(x|z) = Π_i p(x_i|x_1 … x_{i-1}, z) over binary pixels; the base class implements ``logits``."""

    image_size: int

    def image_projection(self, x: Tensor) -> Tensor:
        """Return what ``logits`` reads of images (N, 1, H, W): (N, …, H, W), the same for all z."""
        return x

    def logits(self, code: Tensor, image: Tensor) -> Tensor:
        """Return the logits (N, 1, H, W) of every pixel given those before it.

        Args:
            code: Of z (N, …, H, W).
            image: Its projection (N, …, H, W). Rows at the end of both may be left out.
        """
        raise NotImplementedError

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        """Return log p(x|z) (B, S) for codes (B·S, …, H, W) and images x (B, 1, H, W) in {0, 1}.

        The image's projection is computed once for all samples.
        """
        logits = self.logits(code, self.image_projection(x).repeat_interleave(samples, dim=0))
        nats = F.binary_cross_entropy_with_logits(logits, x.repeat_interleave(samples, dim=0), reduction="none")
        return -nats.flatten(1).sum(-1).unflatten(0, (len(x), samples))

    @torch.no_grad()
    def sample(self, code: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample images (N, 1, H, W) pixel by pixel for codes (N, …, H, W), in evaluation mode.

        Rows below the present pixel are not computed.
        """
        batch, height, width = len(code), self.image_size, self.image_size
        x = code.new_zeros(batch, 1, height, width)
        uniform = torch.rand(batch, height, width, generator=generator, device=code.device)
        for i in range(height):
            for j in range(width):
                logits = self.logits(code[:, :, : i + 1], self.image_projection(x[:, :, : i + 1]))
                x[:, 0, i, j] = (uniform[:, i, j] < logits[:, 0, i, j].sigmoid()).to(x.dtype)
        return x
