"""Batch normalisation of posterior parameters."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import VAE, Context, Method

STATISTICS_BATCHES = 32  # training batches for the statistics used in evaluation


class AffineFreeBatchNorm(nn.BatchNorm1d):
    """Batch normalisation (B, D) -> (B, D) without learned scale and shift.

    eps is 1e-12 instead of 1e-5: with the default, an encoder can shrink its outputs below sqrt(eps), where they are no
    longer normalised. A batch of one example is normalised by the running statistics.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-12, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(x)


class BatchNormMethod(Method):
    """Base class of methods with an ``AffineFreeBatchNorm``; recomputes its statistics before every validation.

    Evaluation then uses averages over training batches at the current weights (Ioffe & Szegedy, ICML 2015, Algorithm
    2). Moving averages lag behind the weights; they are meaningless if a few updates move the means by more than their
    spread.
    """

    def on_validation_start(self, ctx: Context) -> None:
        recompute_bn_stats(ctx)


def reset_text_encoder(model: VAE) -> None:
    """Initialise a text encoder by PyTorch's defaults.

    With U(±0.01), raw means start with a standard deviation of about 1e-5, and normalisation amplifies gradients
    accordingly.
    """
    for layer in (*model.features.modules(), *model.head.modules()):
        if isinstance(layer, nn.LSTM):
            nn.LSTM.reset_parameters(layer)  # the networks' LSTM overrides it
        elif isinstance(layer, nn.Embedding | nn.Linear):
            layer.reset_parameters()


def recompute_bn_stats(ctx: Context) -> None:
    """Set the statistics of every ``AffineFreeBatchNorm`` to averages over training batches, all else in eval mode."""
    norms = [module for module in ctx.model.modules() if isinstance(module, AffineFreeBatchNorm)]
    ctx.model.eval()
    for norm in norms:
        norm.train()
    average_statistics(norms, ctx.model.encode, (ctx.next_batch() for _ in range(STATISTICS_BATCHES)))
    ctx.model.train()


@torch.no_grad()
def average_statistics(
    norms: Sequence[nn.modules.batchnorm._BatchNorm], encode: Callable[[Tensor], Any], batches: Iterable[Tensor]
) -> None:
    """Set the running statistics of BatchNorm layers in training mode to averages over batches read by ``encode``."""
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
    for batch in batches:
        encode(batch)
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
