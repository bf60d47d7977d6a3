"""Heads that modify the encoder's Gaussian."""

import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import Gaussian


class FlooredHead(nn.Module):
    """Features (B, F) -> the Gaussian of ``head`` with e^floor added to its variance.

    A clamp of the log-variance would have no gradient below the floor, so that no later loss could raise it again.
    """

    def __init__(self, head: nn.Module, floor: float) -> None:
        super().__init__()
        self.head, self.floor = head, floor

    def forward(self, h: Tensor) -> Gaussian:
        q = self.head(h)
        return Gaussian(q.mean, self.floor + F.softplus(q.logvar - self.floor))
