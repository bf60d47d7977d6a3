"""Inverse autoregressive flows, and the posteriors they define."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.method import Gaussian, Posterior

MAX_PAIRWISE_UNITS = 2**22  # hidden units evaluated at a time for pairwise densities
MEAN_SAMPLES = 64


class AutoregressiveFlow(nn.Module):
    """z -> s z + (1 - s) m, where gate s_d and shift m_d depend on z_{<d} and on features of x.

    One hidden layer of ``width`` masked units; the context (…, width) is added to its pre-activations. Initialised near
    the identity.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(dim, width), nn.Linear(width, 2 * dim)
        degrees, order = torch.arange(width) % max(1, dim - 1), torch.arange(dim)
        self.register_buffer("mask_in", (degrees.unsqueeze(1) >= order).float(), persistent=False)  # (width, D)
        self.register_buffer(
            "mask_out", (order.unsqueeze(1) > degrees).float().repeat(2, 1), persistent=False
        )  # (2D, width)
        nn.init.normal_(self.second.weight, std=0.01)
        with torch.no_grad():
            self.second.bias.copy_(torch.cat([torch.full((dim,), 2.0), torch.zeros(dim)]))

    def transform(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (…, D) with context (…, width) to the new z (…, D) and the log determinant (…)."""
        hidden = torch.tanh(z @ (self.first.weight * self.mask_in).T + self.first.bias + context)
        gate, shift = (hidden @ (self.second.weight * self.mask_out).T + self.second.bias).chunk(2, dim=-1)
        gate = gate.sigmoid()
        return gate * z + (1 - gate) * shift, gate.log().sum(-1)

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Invert ``transform`` one dimension at a time; return its input (…, D) and log determinant (…)."""
        pre_activation = (self.first.bias + context).expand(*z.shape[:-1], -1)  # (…, width)
        weight_in, weight_out = self.first.weight * self.mask_in, self.second.weight * self.mask_out
        values, log_gates, dim = [], [], z.shape[-1]
        for d in range(dim):
            hidden = torch.tanh(pre_activation)
            gate = (hidden @ weight_out[d] + self.second.bias[d]).sigmoid()
            shift = hidden @ weight_out[dim + d] + self.second.bias[dim + d]
            values.append((z[..., d] - (1 - gate) * shift) / gate)
            log_gates.append(gate.log())
            pre_activation = pre_activation + values[-1].unsqueeze(-1) * weight_in[:, d]
        return torch.stack(values, dim=-1), torch.stack(log_gates, dim=-1).sum(-1)


class FlowPosterior(Posterior):
    """A diagonal Gaussian transformed by flows, with the order of dimensions reversed before each.

    ``contexts``: features of x for each flow, (B, width).
    """

    def __init__(self, base: Gaussian, flows: Sequence[AutoregressiveFlow], contexts: Sequence[Tensor]) -> None:
        self.base, self.flows, self.contexts = base, flows, contexts

    def sample_with_log_prob(self, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return z (B, S, D) and log q(z|x) (B, S), without the inverse that ``log_prob`` needs."""
        z = self.base.rsample(samples, generator)
        log_q = self.base.log_prob(z)
        for flow, context in zip(self.flows, self.contexts, strict=True):
            z, log_determinant = flow.transform(z.flip(-1), context.unsqueeze(1))
            log_q = log_q - log_determinant
        return z, log_q

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_log_prob(samples, generator)[0]

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:  # type: ignore[override]
        """Monte-Carlo mean (B, D) with fixed noise, without a gradient."""
        generator = torch.Generator(self.base.mean.device).manual_seed(0)
        return self.rsample(MEAN_SAMPLES, generator).mean(1)

    def log_prob(self, z: Tensor) -> Tensor:
        log_determinants: Tensor | float = 0
        for flow, context in zip(reversed(self.flows), reversed(self.contexts), strict=True):
            z, log_determinant = flow.inverse(z, context.unsqueeze(1))
            z, log_determinants = z.flip(-1), log_determinants + log_determinant
        return self.base.log_prob(z) - log_determinants

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        batch, width = self.contexts[0].shape
        chunk = max(1, MAX_PAIRWISE_UNITS // (batch * width))
        return torch.cat([self.log_prob(part.expand(batch, -1, -1)).T for part in z.split(chunk)]).double()
