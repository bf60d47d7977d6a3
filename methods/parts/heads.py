"""Heads that modify the encoder's Gaussian."""

from torch import Tensor, nn

from bench.method import Gaussian


class FlooredHead(nn.Module):
    """Features (B, F) -> the Gaussian of ``head`` with its log-variance clamped from below."""

    def __init__(self, head: nn.Module, floor: float) -> None:
        super().__init__()
        self.head, self.floor = head, floor

    def forward(self, h: Tensor) -> Gaussian:
        q = self.head(h)
        return Gaussian(q.mean, q.logvar.clamp_min(self.floor))
