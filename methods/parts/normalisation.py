"""Batch normalisation of posterior parameters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.method import Method

BATCHES = 32  # from which averages are taken


class Normalised(nn.BatchNorm1d):
    """``[B, D]`` -> mean 0 and variance 1 over the batch, in evaluation over its running averages; no learned scale.

    Beside the variance under the root stands next to nothing. With the usual 1e-5 an encoder escapes, to values that
    differ by less than its root: nothing normalises them any more, and what must not vanish vanishes.

    A batch of one example, as data of unequal lengths have it, is normalised by the running averages.
    """

    def __init__(self, dim: int):
        super().__init__(dim, eps=1e-12, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(x)


class BatchNormalised(Method):
    """A method with ``Normalised`` parts, which takes their averages anew whenever validation is to look at it.

    They are those of training batches under the weights as they are, as inference by batch normalisation is defined
    (Ioffe & Szegedy, ICML 2015, algorithm 2). What training leaves trails behind its weights: where means differ by
    less than a few updates move them all, it is no average of anything.
    """

    def on_validation_start(self, ctx):
        average(ctx)


@torch.no_grad()
def average(ctx) -> None:
    """Averages of every ``Normalised`` over training batches, the networks otherwise as in evaluation."""
    parts = [part for part in ctx.model.modules() if isinstance(part, Normalised)]
    ctx.model.eval()
    for part in parts:
        part.train()
        part.reset_running_stats()
        part.momentum, usual = None, part.momentum  # torch's way to say: all batches alike
    for _ in range(BATCHES):
        ctx.model.encode(ctx.next_batch())
    for part in parts:
        part.momentum = usual
    ctx.model.train()
