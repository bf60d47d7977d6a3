"""Likelihoods of single values, and the decoder whose values are independent given z.

Shapes: N examples, P outputs of the network per value, "…" the shape of an example: D values, or C × H × W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Likelihood(nn.Module):
    """p(x_i|z) of one value, whose parameters are ``outputs`` outputs of the decoder's network per value."""

    outputs = 1

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Return log p(x_i|z) of every value (N, …), for outputs (N, P, …) and x (N, …)."""
        raise NotImplementedError

    def mean(self, outputs: Tensor) -> Tensor:
        """Return E[x_i|z] (N, …) for outputs (N, P, …)."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample x (N, …) for outputs (N, P, …)."""
        raise NotImplementedError


class FactorisedDecoder(nn.Module):
    """p(x|z) = Π_i p(x_i|z): a network from the code of z to the outputs of all values."""

    def __init__(self, network: nn.Module, likelihood: Likelihood, shape: Sequence[int]) -> None:
        """Take a network (N, …) -> (N, P · values) for examples of a ``shape``."""
        super().__init__()
        self.network, self.likelihood, self.shape = network, likelihood, tuple(shape)

    def forward(self, code: Tensor) -> Tensor:
        """Return the outputs (N, P, …) for codes (N, …)."""
        outputs = self.network(code).unflatten(1, (self.likelihood.outputs, *self.shape))
        return outputs.float() if outputs.dtype == torch.bfloat16 else outputs  # likelihoods stay in float32

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        """Return log p(x|z) (B, S) for codes (B·S, …) and x (B, …)."""
        repeated = x.repeat_interleave(samples, dim=0) if samples > 1 else x
        log_probs = self.likelihood.log_prob(self(code), repeated)
        return log_probs.flatten(1).sum(-1).unflatten(0, (len(x), samples))

    def mean(self, code: Tensor) -> Tensor:
        """Return E[x|z] (N, …) for codes (N, …)."""
        return self.likelihood.mean(self(code))

    @torch.no_grad()
    def sample(self, code: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample x (N, …) for codes (N, …)."""
        return self.likelihood.sample(self(code), generator)
