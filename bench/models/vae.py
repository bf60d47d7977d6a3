"""The VAE, composed of four replaceable modules, and context managers for its parameters and statistics.

``features(x) -> h``, ``head(h) -> Posterior``, ``latent_to_decoder(z) -> code`` and ``decoder``; in addition ``prior``,
and ``aux`` for modules that a method adds. With zero latent dimensions it is the decoder's autoregressive model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.allocator import trim_heap
from bench.models.distributions import Gaussian, Prior, StandardNormal


class GaussianHead(nn.Module):
    """Features (B, F) -> a diagonal Gaussian (B, D)."""

    def __init__(self, features: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * dim, bias=bias)
        nn.init.xavier_uniform_(self.linear.weight)
        if bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor) -> Gaussian:
        mean, logvar = self.linear(h).chunk(2, dim=-1)
        return Gaussian(mean, logvar)


class EmptyFeatures(nn.Module):
    """The encoder of a model without a latent: x (B, …) -> (B, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 0, device=x.device)


class EmptyHead(nn.Module):
    """The posterior over zero dimensions: its KL is 0 and its samples are empty."""

    def forward(self, h: Tensor) -> Gaussian:
        return Gaussian(h, h)


class VAE(nn.Module):
    """p(z) p(x|z) with q(z|x).

    ``decoder`` implements ``log_prob(code (B·S, …), x (B, …), samples=S) -> (B, S)`` in nats and
    ``sample(code (N, …), generator) -> x (N, …)``.
    """

    def __init__(
        self, features: nn.Module, head: nn.Module, latent_to_decoder: nn.Module, decoder: nn.Module, latent_dim: int
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.latent_to_decoder = latent_to_decoder
        self.decoder = decoder
        self.prior: Prior = StandardNormal(latent_dim)
        self.aux = nn.ModuleDict()
        self.latent_dim = latent_dim

    def encode(self, x: Tensor) -> Any:
        """Return q(z|x), a ``Posterior`` of the type returned by ``head``, for x (B, …)."""
        return self.head(self.features(x))

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) (B, S) for x (B, …) and z (B, S, D)."""
        samples = z.shape[1]
        return self.decoder.log_prob(self.latent_to_decoder(z.flatten(0, 1)), x, samples)

    def sample(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample x (N, …) from p(x|z) for z (N, D)."""
        return self.decoder.sample(self.latent_to_decoder(z), generator)

    def submodules(self) -> dict[str, tuple[nn.Module, ...]]:
        """Return the modules of the inference network, of the generative model, and those added by a method."""
        return {
            "encoder": (self.features, self.head),
            "decoder": (self.latent_to_decoder, self.decoder, self.prior),
            "aux": (self.aux,),
        }

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each entry of ``submodules`` that has any."""
        groups = {name: [p for m in modules for p in m.parameters()] for name, modules in self.submodules().items()}
        return {name: parameters for name, parameters in groups.items() if parameters}


class StandardNormalLatentVAE(nn.Module):
    """The same p(x) with the latent u ~ N(0, I) in R^D, where z = prior.from_standard_normal(u).

    For estimators that search over all of R^D.
    """

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model, self.latent_dim = model, model.latent_dim
        self.prior = StandardNormal(model.latent_dim)

    def log_prob(self, x: Tensor, u: Tensor) -> Tensor:
        """Return log p(x|u) (B, S) for x (B, …) and u (B, S, D)."""
        return self.model.log_prob(x, self.model.prior.from_standard_normal(u))


def reparametrize_prior(model: VAE) -> VAE | StandardNormalLatentVAE:
    """Return a model of the same p(x) whose prior has support R^D."""
    return StandardNormalLatentVAE(model) if hasattr(model.prior, "from_standard_normal") else model


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers in a module that have running averages."""
    kind = nn.modules.batchnorm._BatchNorm
    return [layer for layer in module.modules() if isinstance(layer, kind) and layer.track_running_stats]


@contextmanager
def fixed_statistics(*modules: nn.Module) -> Iterator[None]:
    """Keep BatchNorm running averages fixed. In training mode layers still normalise by batch statistics."""
    norms = [norm for module in modules for norm in batch_norms(module)]
    for norm in norms:
        norm.track_running_stats = not norm.training
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Disable gradients of these parameters."""
    trainable = [p for p in parameters if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


@contextmanager
def second_order(module: nn.Module) -> Iterator[None]:
    """Make gradients of a module differentiable, by switching its layers with a ``second_order`` flag."""
    trim_heap()
    layers = [m for m in module.modules() if getattr(m, "second_order", None) is False]
    for layer in layers:
        layer.second_order = True
    try:
        yield
    finally:
        for layer in layers:
            layer.second_order = False
