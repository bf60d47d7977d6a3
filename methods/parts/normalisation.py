"""Batch normalisation of posterior parameters."""

import torch.nn.functional as F
from torch import Tensor, nn


class Normalised(nn.BatchNorm1d):
    """``[B, D]`` -> mean 0 and variance 1 over the batch, in evaluation over its running averages; no learned scale.

    A batch of one example, as data of unequal lengths have it, is normalised by the running averages.
    """

    def __init__(self, dim: int):
        super().__init__(dim, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(x)
