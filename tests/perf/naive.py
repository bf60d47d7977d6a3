"""The same models and updates in the formulation of the reference implementations, to be measured against.

Full masked kernels, contiguous memory, z's maps beside the image in one first convolution, three-dimensional vocabulary
projection, gradients for every parameter whatever is stepped, plain optimisers, the loss read after every update. Same
function, same weights: ``tests/perf/test_naive.py`` holds the two together, so ratios of times mean something.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets import PAD
from bench.models.image import MaskedCNNDecoder, MaskedConv
from bench.models.norm import BatchNorm2d
from bench.models.text import LSTM
from bench.models.vae import VAE


class FullMaskedConv(nn.Conv2d):
    """A k×k kernel held whole, its masked taps set to zero before every use."""

    def __init__(self, cropped: MaskedConv, extra: nn.Conv2d | None = None):
        rows, size = cropped.kernel_size
        inputs = cropped.in_channels + (extra.in_channels if extra else 0)
        super().__init__(inputs, cropped.out_channels, size, padding=size // 2, bias=False)
        mask, weight = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        mask[:, : cropped.in_channels, :rows] = cropped.mask
        weight[:, : cropped.in_channels, :rows] = cropped.weight.detach()
        if extra:
            mask[:, cropped.in_channels :] = 1
            weight[:, cropped.in_channels :] = extra.weight.detach()
        self.register_buffer("mask", mask)
        self.weight.data = weight * mask

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class NaiveImageDecoder(nn.Module):
    """The residual masked CNN as a stack of plain modules; every sample of an image goes through all of it."""

    def __init__(self, decoder: MaskedCNNDecoder):
        super().__init__()
        self.first = FullMaskedConv(decoder.from_image, decoder.from_maps)
        self.rest = _plain(decoder)
        self.rest.from_image = self.rest.from_maps = None

    def log_prob(self, maps: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        repeated = x.unsqueeze(1).expand(-1, samples, -1, -1, -1).flatten(0, 1).contiguous()
        logits = self.rest(self.first(torch.cat([repeated, maps], dim=1)))
        nats = F.binary_cross_entropy_with_logits(logits, repeated, reduction="none")
        return -nats.flatten(1).sum(-1).view(len(x), samples)


class NaiveTextDecoder(nn.Module):
    """The LSTM decoder with all scores of all words of all samples at once."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.inner = _plain(decoder)

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        words = x.unsqueeze(1).expand(-1, samples, -1).flatten(0, 1).contiguous()
        hidden, _ = self.inner.states(words[:, :-1], code, self.inner.start(code))
        scores = self.inner.output(hidden)
        target = words[:, 1:].contiguous()
        nats = F.cross_entropy(scores.view(-1, scores.shape[-1]), target.view(-1), ignore_index=PAD, reduction="none")
        return -nats.view(len(x), samples, -1).sum(-1)


def naive(model: VAE) -> VAE:
    """A copy of a model, with its weights, in the naive formulation."""
    made = copy.deepcopy(model)
    image = isinstance(made.decoder, MaskedCNNDecoder)
    made.features = _plain(made.features)
    made.decoder = (NaiveImageDecoder if image else NaiveTextDecoder)(made.decoder)
    return made.to(memory_format=torch.contiguous_format)


def _plain(module: nn.Module) -> nn.Module:
    """A module with the layers of torch in place of ours."""
    module = copy.deepcopy(module)
    for parent in [*module.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, MaskedConv):
                setattr(parent, name, FullMaskedConv(child))
            elif isinstance(child, BatchNorm2d):
                setattr(parent, name, _copied(nn.BatchNorm2d(child.num_features), child))
            elif isinstance(child, LSTM):
                setattr(parent, name, _copied(nn.LSTM(child.input_size, child.hidden_size, batch_first=True), child))
            elif isinstance(child, nn.ELU):
                setattr(parent, name, nn.ELU())
    return module


def _copied(made: nn.Module, source: nn.Module) -> nn.Module:
    made.load_state_dict(source.state_dict())
    return made


class NaiveTraining:
    """One optimiser each for encoder and decoder, as in the reference; ``groups`` are those that step."""

    def __init__(self, model: VAE, optimiser: str, lr: float, clip: float = 5.0):
        self.model, self.clip = model, clip
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser]
        self.optimisers = {name: make(group, lr=lr) for name, group in model.groups().items()}

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        q = self.model.encode(x)
        z = q.rsample(1, generator)
        return -self.model.log_prob(x, z).mean() + self.model.prior.kl(q).mean()

    def update(self, x: Tensor, groups: tuple[str, ...] = ("encoder", "decoder")) -> float:
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        loss = self.loss(x)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for name in groups:
            self.optimisers[name].step()
        return loss.item()


@torch.no_grad()
def naive_nll(model: VAE, x: Tensor, samples: int, at_once: int) -> Tensor:
    """Importance-weighted NLL ``[B]``, encoding anew for each ``at_once`` samples of every example."""
    weights = []
    for _ in range(samples // at_once):
        q = model.encode(x)
        z = q.rsample(at_once)
        weights.append(model.log_prob(x, z) + model.prior.log_prob(z) - q.log_prob(z))
    found = torch.cat(weights, dim=1)
    return torch.tensor(float(found.shape[1])).log() - found.logsumexp(dim=1)
