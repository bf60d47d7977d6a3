"""Inverse autoregressive flows, and posteriors that they make of Gaussians."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.models.distributions import Gaussian

PAIRS = 2**22  # hidden values in memory at a time, of pairs of codes and posteriors
MEAN_SAMPLES = 64


class AutoregressiveFlow(nn.Module):
    """z ``[…, D]`` -> s z + (1 - s) m, gates s and m of dimension d functions of the dimensions before it and a
    context.

    One hidden layer of ``width`` units, each of which sees the dimensions up to its degree; the context ``[…, width]``
    is added to it. It begins near the identity.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(dim, width), nn.Linear(width, 2 * dim)
        degrees, order = torch.arange(width) % max(1, dim - 1), torch.arange(dim)
        self.register_buffer("seen", (degrees.unsqueeze(1) >= order).float(), persistent=False)  # [width, dim]
        self.register_buffer("given", (order.unsqueeze(1) > degrees).float().repeat(2, 1), persistent=False)
        nn.init.normal_(self.second.weight, std=0.01)
        with torch.no_grad():
            self.second.bias.copy_(torch.cat([torch.full((dim,), 2.0), torch.zeros(dim)]))

    def transformed(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """z and context -> the new z and the log determinant ``[…]``."""
        hidden = torch.tanh(z @ (self.first.weight * self.seen).T + self.first.bias + context)
        gate, shift = (hidden @ (self.second.weight * self.given).T + self.second.bias).chunk(2, dim=-1)
        gate = gate.sigmoid()
        return gate * z + (1 - gate) * shift, gate.log().sum(-1)

    def inverted(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The z that ``transformed`` makes this one of, and the log determinant there; one dimension after another."""
        before = (self.first.bias + context).expand(*z.shape[:-1], -1)
        into, out = self.first.weight * self.seen, self.second.weight * self.given
        values, log_gates, dim = [], [], z.shape[-1]
        for d in range(dim):
            hidden = torch.tanh(before)
            gate = (hidden @ out[d] + self.second.bias[d]).sigmoid()
            shift = hidden @ out[dim + d] + self.second.bias[dim + d]
            values.append((z[..., d] - (1 - gate) * shift) / gate)
            log_gates.append(gate.log())
            before = before + values[-1].unsqueeze(-1) * into[:, d]
        return torch.stack(values, dim=-1), torch.stack(log_gates, dim=-1).sum(-1)


class Flowed:
    """q(z|x): what flows make of a diagonal Gaussian; the order of dimensions is turned round between them.

    ``contexts``: one ``[B, width]`` for each flow.
    """

    has_density = True
    has_pairwise = True

    def __init__(self, base: Gaussian, flows: Sequence[AutoregressiveFlow], contexts: Sequence[Tensor]):
        self.base, self.flows, self.contexts = base, flows, contexts

    def sampled(self, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """z ``[B, S, D]`` and log q(z|x) ``[B, S]``, without the inverse that the density of other z takes."""
        z = self.base.rsample(samples, generator)
        log_q = self.base.log_prob(z)
        for flow, context in zip(self.flows, self.contexts, strict=True):
            z, log_determinant = flow.transformed(z.flip(-1), context.unsqueeze(1))
            log_q = log_q - log_determinant
        return z, log_q

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        return self.sampled(samples, generator)[0]

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:
        """Of the same few samples every time; without a gradient."""
        generator = torch.Generator(self.base.mean.device).manual_seed(0)
        return self.rsample(MEAN_SAMPLES, generator).mean(1)

    def log_prob(self, z: Tensor) -> Tensor:
        log_determinants = 0
        for flow, context in zip(reversed(self.flows), reversed(self.contexts), strict=True):
            z, log_determinant = flow.inverted(z, context.unsqueeze(1))
            z, log_determinants = z.flip(-1), log_determinants + log_determinant
        return self.base.log_prob(z) - log_determinants

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        batch, width = self.contexts[0].shape
        some = max(1, PAIRS // (batch * width))
        return torch.cat([self.log_prob(part.expand(batch, -1, -1)).T for part in z.split(some)]).double()
