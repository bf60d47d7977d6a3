"""Inverse autoregressive flows, and the posteriors they define."""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import Gaussian, Posterior

MAX_PAIRWISE_UNITS = 2**22  # hidden units evaluated at a time for pairwise densities
MEAN_SAMPLES = 64
GATE_BIAS = 2.0  # of the gates at the start, which are near sigmoid(2) = 0.88


class MaskedLinear(nn.Linear):
    """A linear layer in which output o sees the inputs i with degree_in[i] ≤ degree_out[o]."""

    def __init__(self, degree_in: Tensor, degree_out: Tensor) -> None:
        super().__init__(len(degree_in), len(degree_out))
        self.register_buffer("mask", (degree_in <= degree_out.unsqueeze(1)).float(), persistent=False)

    def masked_weight(self) -> Tensor:
        """Return the weight (outputs, inputs), 0 where an output does not see an input."""
        return self.weight * self.mask


class AutoregressiveFlow(nn.Module):
    """z -> s z + (1 - s) m, where gate s_d and shift m_d depend on z_{<d} and on a context of x.

    Two hidden layers of ``width`` masked ReLU units for each of the D dimensions (Germain et al., ICML 2015); the
    context (…, C) enters the first. A unit of degree k sees z_0 … z_k, and units are in the order of their degrees.
    """

    def __init__(self, dim: int, width: int, context: int) -> None:
        super().__init__()
        units = torch.arange(width * dim) * max(1, dim - 1) // (width * dim)  # degrees 0 … D - 2
        outputs = torch.arange(dim).repeat(2) - 1  # gate and shift of dimension d see degrees below d
        self.first, self.second = MaskedLinear(torch.arange(dim), units), MaskedLinear(units, units)
        self.output = MaskedLinear(units, outputs)
        self.context = nn.Linear(context, width * dim, bias=False)
        #: Number of units of degree below d, for every d.
        self.units_below = [int((units < d).sum()) for d in range(dim)]
        with torch.no_grad():
            self.output.bias[:dim] += GATE_BIAS

    def transform(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (…, D) with context (…, C) to the new z (…, D) and the log determinant (…)."""
        hidden = F.relu(F.linear(z, self.first.masked_weight(), self.first.bias) + self.context(context))
        hidden = F.relu(F.linear(hidden, self.second.masked_weight(), self.second.bias))
        gate, shift = F.linear(hidden, self.output.masked_weight(), self.output.bias).chunk(2, dim=-1)
        return gate.sigmoid() * z + (-gate).sigmoid() * shift, F.logsigmoid(gate).sum(-1)

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Invert ``transform`` one dimension at a time; return its input (…, D) and log determinant (…).

        Every hidden unit is computed once, as soon as the dimensions that it sees are known.
        """
        dim, pre_activation = z.shape[-1], self.context(context) + self.first.bias  # (…, units)
        first, second, output = (layer.masked_weight() for layer in (self.first, self.second, self.output))
        values = hidden = last = z.new_empty(*z.shape[:-1], 0)
        log_gates, start = [], 0
        for d, end in enumerate(self.units_below):
            if end > start:  # units of degree d - 1
                new = slice(start, end)
                units = F.relu(F.linear(values, first[new, :d]) + pre_activation[..., new])
                hidden = torch.cat([hidden, units], dim=-1)
                last = torch.cat([last, F.relu(F.linear(hidden, second[new, :end], self.second.bias[new]))], dim=-1)
            gate, shift = F.linear(last, output[d::dim, :end], self.output.bias[d::dim]).unbind(-1)
            value = (z[..., d] - (-gate).sigmoid() * shift) * (-F.logsigmoid(gate)).exp()
            values = torch.cat([values, value.unsqueeze(-1)], dim=-1)
            log_gates.append(F.logsigmoid(gate))
            start = end
        return values, torch.stack(log_gates, dim=-1).sum(-1)


def mirrored_noise(samples: int, like: Tensor) -> Tensor:
    """Return fixed noise (1, S, D) of mean 0 for means like ``like`` (B, D), the same for all examples.

    With noise of its own, the Monte-Carlo mean of every example has a variance of 1/S, which active units would count.
    """
    generator = torch.Generator(like.device).manual_seed(0)
    half = torch.randn(1, samples // 2, like.shape[-1], generator=generator, device=like.device, dtype=like.dtype)
    return torch.cat([half, -half], dim=1)


class FlowPosterior(Posterior):
    """A diagonal Gaussian transformed by flows of a context (B, C), their order of dimensions reversed before each."""

    def __init__(self, base: Gaussian, flows: Sequence[AutoregressiveFlow], context: Tensor) -> None:
        self.base, self.flows, self.context = base, flows, context

    def sample_with_log_prob(self, samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return z (B, S, D) and log q(z|x) (B, S), without the inverse that ``log_prob`` needs."""
        z = self.base.rsample(samples, generator)
        log_q = self.base.log_prob(z)
        z, log_determinant = self.transform(z)
        return z, log_q - log_determinant

    def transform(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Apply all flows to samples z (B, S, D) of the Gaussian; return the new z and the log determinant (B, S)."""
        total = z.new_zeros(z.shape[:-1])
        for flow in self.flows:
            z, log_determinant = flow.transform(z.flip(-1), self.context.unsqueeze(1))
            total = total + log_determinant
        return z, total

    def rsample(self, samples: int, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_log_prob(samples, generator)[0]

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:  # type: ignore[override]
        """Monte-Carlo mean (B, D) with fixed noise, without a gradient."""
        noise = mirrored_noise(MEAN_SAMPLES, self.base.mean)
        z = self.base.mean.unsqueeze(1) + (0.5 * self.base.logvar).exp().unsqueeze(1) * noise  # (B, S, D)
        return self.transform(z)[0].mean(1)

    def log_prob(self, z: Tensor) -> Tensor:
        log_determinants: Tensor | float = 0
        for flow in reversed(self.flows):
            z, log_determinant = flow.inverse(z, self.context.unsqueeze(1))
            z, log_determinants = z.flip(-1), log_determinants + log_determinant
        return self.base.log_prob(z) - log_determinants

    def pairwise_log_prob(self, z: Tensor) -> Tensor:
        batch, units = len(self.context), len(self.flows[0].second.weight)
        chunk = max(1, MAX_PAIRWISE_UNITS // (batch * units))
        log_probs = torch.cat([self.log_prob(part.expand(batch, -1, -1)).T for part in z.split(chunk)]).double()
        return log_probs.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)  # where the inverse overflows
