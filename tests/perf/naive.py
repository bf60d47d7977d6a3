"""The same models and updates in the formulation of the reference implementations, to be measured against.

Full masked kernels, contiguous memory, z's maps beside the image in one first convolution, three-dimensional vocabulary
projection, gradients for every parameter whatever is stepped, plain optimisers, the loss read after every update. Made
of torch's own layers alone, so it stays what it is when the models change. Same function, same weights:
``tests/perf/test_naive.py`` holds the two together, so ratios of times mean something.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.dataset import PAD
from bench.models.image import (
    LatentProjection,
    MaskedBlock,
    MaskedCNNDecoder,
    MaskedConv,
    ResidualBlock,
    ResNetFeatures,
)
from bench.models.text import LSTMDecoder, LSTMFeatures
from bench.models.vae import VAE


class FullMaskedConv(nn.Conv2d):
    """A k×k kernel held whole, its masked taps set to zero before every use."""

    def __init__(self, cropped: MaskedConv, extra: nn.Conv2d | None = None):
        rows, size = cropped.kernel_size
        inputs = cropped.in_channels + (extra.in_channels if extra else 0)
        super().__init__(inputs, cropped.out_channels, size, padding=size // 2, bias=False)
        mask, weight = torch.zeros(2, *self.weight.shape, dtype=cropped.weight.dtype)
        mask[:, : cropped.in_channels, :rows] = cropped.mask
        weight[:, : cropped.in_channels, :rows] = cropped.weight.detach()
        if extra:
            mask[:, cropped.in_channels :] = 1
            weight[:, cropped.in_channels :] = extra.weight.detach()
        self.register_buffer("mask", mask.to(cropped.weight))
        self.weight.data = weight * mask

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


def conv(ours: nn.Conv2d) -> nn.Conv2d:
    sizes = (ours.in_channels, ours.out_channels, ours.kernel_size, ours.stride, ours.padding)
    return _copied(nn.Conv2d(*sizes, bias=False), ours)


def norm(ours: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return _copied(nn.BatchNorm2d(ours.num_features), ours)


class PlainResidualBlock(nn.Module):
    def __init__(self, ours: ResidualBlock):
        super().__init__()
        first, first_norm, second = ours.body
        self.body = nn.Sequential(conv(first), norm(first_norm), nn.ELU(), conv(second), norm(ours.norm))
        self.shortcut = nn.Sequential(conv(ours.shortcut[0]), norm(ours.shortcut[1]))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(x) + self.shortcut(x))


class PlainMaskedBlock(nn.Module):
    def __init__(self, ours: MaskedBlock):
        super().__init__()
        down, down_norm, masked, masked_norm, up = ours.body
        first = (conv(down), norm(down_norm), nn.ELU())
        second = (FullMaskedConv(masked), norm(masked_norm), nn.ELU())
        self.body = nn.Sequential(*first, *second, conv(up), norm(ours.norm))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(x) + x)


class NaiveImageDecoder(nn.Module):
    """The residual masked CNN as a stack of plain modules; every sample of an image goes through all of it."""

    def __init__(self, ours: MaskedCNNDecoder, of_maps: nn.Conv2d):
        super().__init__()
        self.first = nn.Sequential(FullMaskedConv(ours.from_image, of_maps), norm(ours.norm), nn.ELU())
        self.blocks = nn.ModuleList(map(PlainMaskedBlock, ours.blocks))
        self.skips = nn.ModuleList(map(PlainMaskedBlock, ours.skips))
        mix, mix_norm, score = ours.output
        self.output = nn.Sequential(conv(mix), norm(mix_norm), nn.ELU(), conv(score))

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.first(x)]
        for layer, block in enumerate(self.blocks, start=1):
            h = outputs[-1]
            if 0 <= layer - 3 < len(self.skips) - 1:
                h = h + self.skips[layer - 3](outputs[layer - 3])
            outputs.append(block(h))
        h = outputs[-1]
        if self.skips:
            h = h + self.skips[-1](outputs[len(self.skips) - 1])
        return self.output(h)

    def log_prob(self, maps: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        repeated = x.unsqueeze(1).expand(-1, samples, -1, -1, -1).flatten(0, 1).contiguous()
        logits = self(torch.cat([repeated, maps], dim=1))
        nats = F.binary_cross_entropy_with_logits(logits, repeated, reduction="none")
        return -nats.flatten(1).sum(-1).view(len(x), samples)


class NaiveTextFeatures(nn.Module):
    """The encoder's LSTM; its state after ``</s>``."""

    def __init__(self, ours: LSTMFeatures):
        super().__init__()
        self.embedding, self.lstm = embedding(ours.embedding), lstm(ours.lstm)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        return states[torch.arange(len(x)), (x != PAD).sum(dim=1) - 1]


class NaiveTextDecoder(nn.Module):
    """The LSTM decoder with all scores of all words of all samples at once."""

    def __init__(self, ours: LSTMDecoder):
        super().__init__()
        self.embedding, self.lstm, self.output = embedding(ours.embedding), lstm(ours.lstm), projection(ours)
        self.dim, self.dropout = ours.dim, ours.dropout

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        words = x.unsqueeze(1).expand(-1, samples, -1).flatten(0, 1).contiguous()
        embedded = F.dropout(self.embedding(words[:, :-1]), self.dropout, self.training)
        z, cell = code[:, None, : self.dim].expand(-1, embedded.shape[1], -1), code[:, self.dim :].unsqueeze(0)
        hidden, _ = self.lstm(torch.cat([embedded, z], dim=-1), (cell.tanh(), cell))
        scores = self.output(F.dropout(hidden, self.dropout, self.training))
        target = words[:, 1:].contiguous()
        nats = F.cross_entropy(scores.view(-1, scores.shape[-1]), target.view(-1), ignore_index=PAD, reduction="none")
        return -nats.view(len(x), samples, -1).sum(-1)


def embedding(ours: nn.Embedding) -> nn.Embedding:
    return _copied(nn.Embedding(*ours.weight.shape), ours)


def lstm(ours: nn.LSTM) -> nn.LSTM:
    return _copied(nn.LSTM(ours.input_size, ours.hidden_size, batch_first=True), ours)


def projection(ours: LSTMDecoder) -> nn.Linear:
    return _copied(nn.Linear(ours.hidden, ours.output.weight.shape[0], bias=False), ours.output)


def naive(model: VAE) -> VAE:
    """A copy of a model with a latent, with its weights, in the naive formulation."""
    made = copy.deepcopy(model)
    if isinstance(made.features, ResNetFeatures):
        *blocks, last, last_norm, _ = made.features.layers
        layers = (*map(PlainResidualBlock, blocks), conv(last), norm(last_norm), nn.ELU(), nn.Flatten())
        made.features, made.decoder = (
            nn.Sequential(*layers),
            NaiveImageDecoder(made.decoder, made.latent_to_decoder.conv),
        )
        made.latent_to_decoder = PlainMaps(made.latent_to_decoder)
    else:
        made.features, made.decoder = NaiveTextFeatures(made.features), NaiveTextDecoder(made.decoder)
    return made.to(memory_format=torch.contiguous_format)


class PlainMaps(nn.Module):
    def __init__(self, ours: LatentProjection):
        super().__init__()
        self.linear, self.shape = copy.deepcopy(ours.linear), ours.shape

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).view(len(z), *self.shape)


def _copied(made: nn.Module, source: nn.Module) -> nn.Module:
    made.to(next(source.parameters()).dtype).load_state_dict(source.state_dict())
    return made


class NaiveTraining:
    """One optimiser each for encoder and decoder, as in the reference; ``groups`` are those that step."""

    def __init__(self, model: VAE, optimiser: str, lr: float, clip: float = 5.0):
        self.model, self.clip = model, clip
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser]
        self.optimisers = {name: make(group, lr=lr) for name, group in model.parameter_groups().items()}

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        q = self.model.encode(x)
        z = q.rsample(1, generator)
        return -self.model.log_prob(x, z).mean() + self.model.prior.kl(q).mean()

    def backward(self, x: Tensor) -> Tensor:
        """Gradients of every parameter; returns the loss."""
        loss = self.loss(x)
        loss.backward()
        return loss

    def update(self, x: Tensor, groups: tuple[str, ...] = ("encoder", "decoder")) -> float:
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        loss = self.backward(x)
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
