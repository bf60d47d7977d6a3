"""The model: a VAE with four seams, so that a method can wrap just one of them.

``features(x) -> h``, ``head(h) -> Posterior``, ``latent_to_decoder(z)``, ``decoder``; also ``prior`` and ``aux``,
the modules that a method adds. With a latent of no dimensions it is the decoder's autoregressive model alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.models.allocator import trim_heap
from bench.models.distributions import Gaussian, Posterior, StandardNormal


class GaussianHead(nn.Module):
    """Features ``[B, F]`` to a diagonal Gaussian over D dimensions."""

    def __init__(self, features: int, dim: int, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(features, 2 * dim, bias=bias)
        nn.init.xavier_uniform_(self.linear.weight)
        if bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor) -> Gaussian:
        mean, logvar = self.linear(h).chunk(2, dim=-1)
        return Gaussian(mean, logvar)


class EmptyFeatures(nn.Module):
    """The encoder of a model without a latent: looks at nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 0, device=x.device)


class EmptyHead(nn.Module):
    """The posterior over no dimensions: every KL is 0 and every sample is empty."""

    def forward(self, h: Tensor) -> Gaussian:
        return Gaussian(h, h)


class VAE(nn.Module):
    """p(z) p(x|z) with q(z|x).

    ``decoder`` offers ``log_prob(code [B·S, …], x [B, …], samples=S) -> [B, S]`` in nats and
    ``sample(code, generator) -> x``; ``code`` is what ``latent_to_decoder`` makes of z.
    """

    def __init__(
        self, features: nn.Module, head: nn.Module, latent_to_decoder: nn.Module, decoder: nn.Module, latent_dim: int
    ):
        super().__init__()
        self.features = features
        self.head = head
        self.latent_to_decoder = latent_to_decoder
        self.decoder = decoder
        self.prior: nn.Module = StandardNormal(latent_dim)
        self.aux = nn.ModuleDict()
        self.latent_dim = latent_dim

    def encode(self, x: Tensor) -> Posterior:
        return self.head(self.features(x))

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z): x ``[B, …]``, z ``[B, S, D]`` -> ``[B, S]``."""
        samples = z.shape[1]
        return self.decoder.log_prob(self.latent_to_decoder(z.flatten(0, 1)), x, samples)

    def sample(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z): z ``[B, D]`` -> x ``[B, …]``."""
        return self.decoder.sample(self.latent_to_decoder(z), generator)

    def submodules(self) -> dict[str, tuple[nn.Module, ...]]:
        """The modules by who learns them: inference network, generative model, a method's own."""
        return {
            "encoder": (self.features, self.head),
            "decoder": (self.latent_to_decoder, self.decoder, self.prior),
            "aux": (self.aux,),
        }

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each part that has some."""
        groups = {name: [p for m in modules for p in m.parameters()] for name, modules in self.submodules().items()}
        return {name: parameters for name, parameters in groups.items() if parameters}


class StandardNormalLatentVAE(nn.Module):
    """A VAE whose prior is that of ``carry(u)``, u ~ N(0, I), as the same p(x) with u in R^D for its latent: what looks
    for z where it may take any value then looks for u."""

    def __init__(self, model: VAE):
        super().__init__()
        self.model, self.latent_dim = model, model.latent_dim
        self.prior = StandardNormal(model.latent_dim)

    def log_prob(self, x: Tensor, u: Tensor) -> Tensor:
        return self.model.log_prob(x, self.model.prior.from_standard_normal(u))


def reparametrize_prior(model: VAE) -> VAE | StandardNormalLatentVAE:
    """The model with a latent that may take any value in R^D, of the same p(x)."""
    return StandardNormalLatentVAE(model) if hasattr(model.prior, "from_standard_normal") else model


@contextmanager
def fixed_statistics(*modules: nn.Module) -> Iterator[None]:
    """Within: BatchNorm in training mode normalises by the batch as ever, but its running averages stay put."""
    norms = [
        m
        for module in modules
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = not norm.training
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within: no gradients for these parameters, and no time for them."""
    wanted = [p for p in parameters if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


@contextmanager
def second_order(module: nn.Module) -> Iterator[None]:
    """Within: the layers of a module that can be differentiated twice, or more cheaply so, if told to, are. What an
    earlier graph of gradients has left of holes in memory is given back."""
    trim_heap()
    layers = [m for m in module.modules() if getattr(m, "second_order", None) is False]
    for layer in layers:
        layer.second_order = True
    try:
        yield
    finally:
        for layer in layers:
            layer.second_order = False
