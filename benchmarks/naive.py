"""Naive implementations of the models and of an update, in the style of the published code.

They use full masked kernels, contiguous memory, the maps of z as input channels of the first convolution, logits of all
words at once, gradients for every parameter, default optimisers, and they read the loss after every update. Only torch
layers are used, so the baseline does not change with ``bench.models``. Function and weights are the same.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.dataset import PAD
from bench.models.architectures.lstm import LSTMDecoder, LSTMFeatures
from bench.models.architectures.masked_cnn import (
    LatentProjection,
    MaskedBlock,
    MaskedCNNDecoder,
    MaskedConv,
    ResidualBlock,
    ResNetFeatures,
)
from bench.models.vae import VAE


class FullMaskedConv(nn.Conv2d):
    """A convolution with a full k×k kernel whose masked taps are set to zero before every use."""

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


def conv(source: nn.Conv2d) -> nn.Conv2d:
    sizes = (source.in_channels, source.out_channels, source.kernel_size, source.stride, source.padding)
    return _copied(nn.Conv2d(*sizes, bias=False), source)


def norm(source: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return _copied(nn.BatchNorm2d(source.num_features), source)


class PlainResidualBlock(nn.Module):
    def __init__(self, source: ResidualBlock):
        super().__init__()
        first, first_norm, second = source.body
        self.body = nn.Sequential(conv(first), norm(first_norm), nn.ELU(), conv(second), norm(source.norm))
        self.shortcut = nn.Sequential(conv(source.shortcut[0]), norm(source.shortcut[1]))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(x) + self.shortcut(x))


class PlainMaskedBlock(nn.Module):
    def __init__(self, source: MaskedBlock):
        super().__init__()
        down, down_norm, masked, masked_norm, up = source.body
        first = (conv(down), norm(down_norm), nn.ELU())
        second = (FullMaskedConv(masked), norm(masked_norm), nn.ELU())
        self.body = nn.Sequential(*first, *second, conv(up), norm(source.norm))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(x) + x)


class NaiveImageDecoder(nn.Module):
    """The residual masked CNN; every sample of an image passes through all layers."""

    def __init__(self, source: MaskedCNNDecoder, latent_conv: nn.Conv2d):
        super().__init__()
        self.first = nn.Sequential(FullMaskedConv(source.from_image, latent_conv), norm(source.norm), nn.ELU())
        self.blocks = nn.ModuleList(map(PlainMaskedBlock, source.blocks))
        self.skips = nn.ModuleList(map(PlainMaskedBlock, source.skips))
        mix, mix_norm, score = source.output
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
    """The LSTM encoder; returns the state after ``</s>``: (B, H)."""

    def __init__(self, source: LSTMFeatures):
        super().__init__()
        self.embedding, self.lstm = embedding(source.embedding), lstm(source.lstm)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        return states[torch.arange(len(x)), (x != PAD).sum(dim=1) - 1]


class NaiveTextDecoder(nn.Module):
    """The LSTM decoder, with the logits of all words of all samples in one tensor."""

    def __init__(self, source: LSTMDecoder):
        super().__init__()
        self.embedding, self.lstm, self.output = embedding(source.embedding), lstm(source.lstm), projection(source)
        self.dim, self.dropout = source.dim, source.dropout

    def log_prob(self, code: Tensor, x: Tensor, samples: int = 1) -> Tensor:
        words = x.unsqueeze(1).expand(-1, samples, -1).flatten(0, 1).contiguous()
        embedded = F.dropout(self.embedding(words[:, :-1]), self.dropout, self.training)
        z, cell = code[:, None, : self.dim].expand(-1, embedded.shape[1], -1), code[:, self.dim :].unsqueeze(0)
        hidden, _ = self.lstm(torch.cat([embedded, z], dim=-1), (cell.tanh(), cell))
        scores = self.output(F.dropout(hidden, self.dropout, self.training))
        target = words[:, 1:].contiguous()
        nats = F.cross_entropy(scores.view(-1, scores.shape[-1]), target.view(-1), ignore_index=PAD, reduction="none")
        return -nats.view(len(x), samples, -1).sum(-1)


def embedding(source: nn.Embedding) -> nn.Embedding:
    return _copied(nn.Embedding(*source.weight.shape), source)


def lstm(source: nn.LSTM) -> nn.LSTM:
    return _copied(nn.LSTM(source.input_size, source.hidden_size, batch_first=True), source)


def projection(source: LSTMDecoder) -> nn.Linear:
    return _copied(nn.Linear(source.hidden, source.output.weight.shape[0], bias=False), source.output)


def naive(model: VAE) -> VAE:
    """Return a naive copy of a model with latent variables and the same weights."""
    plain = copy.deepcopy(model)
    if isinstance(plain.features, ResNetFeatures):
        *blocks, last, last_norm, _ = plain.features.layers
        layers = (*map(PlainResidualBlock, blocks), conv(last), norm(last_norm), nn.ELU(), nn.Flatten())
        plain.features = nn.Sequential(*layers)
        plain.decoder = NaiveImageDecoder(plain.decoder, plain.latent_to_decoder.conv)
        plain.latent_to_decoder = PlainMaps(plain.latent_to_decoder)
    else:
        plain.features, plain.decoder = NaiveTextFeatures(plain.features), NaiveTextDecoder(plain.decoder)
    return plain.to(memory_format=torch.contiguous_format)


class PlainMaps(nn.Module):
    def __init__(self, source: LatentProjection):
        super().__init__()
        self.linear, self.shape = copy.deepcopy(source.linear), source.shape

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).view(len(z), *self.shape)


def _copied(layer: nn.Module, source: nn.Module) -> nn.Module:
    layer.to(next(source.parameters()).dtype).load_state_dict(source.state_dict())
    return layer


class NaiveTraining:
    """Training updates with one optimiser each for encoder and decoder."""

    def __init__(self, model: VAE, optimiser: str, lr: float, clip: float = 5.0):
        self.model, self.clip = model, clip
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser]
        self.optimisers = {name: make(group, lr=lr) for name, group in model.parameter_groups().items()}

    def loss(self, x: Tensor) -> Tensor:
        q = self.model.encode(x)
        z = q.rsample(1)
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
    """Return the importance-weighted NLL (B,), encoding x again for every ``at_once`` samples."""
    weights = []
    for _ in range(samples // at_once):
        q = model.encode(x)
        z = q.rsample(at_once)
        weights.append(model.log_prob(x, z) + model.prior.log_prob(z) - q.log_prob(z))
    log_weights = torch.cat(weights, dim=1)  # (B, S)
    return math.log(samples) - log_weights.logsumexp(dim=1)
