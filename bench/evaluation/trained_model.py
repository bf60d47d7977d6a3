"""A trained model as metric groups receive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data.tensors import Data
from bench.evaluation.estimators.subsample import evenly_spaced
from bench.evaluation.metrics import EvaluationContext
from bench.evaluation.record import BasicSettings, Evaluation
from bench.method import Method
from bench.models.distributions import Posterior


class Block(NamedTuple):
    """Examples encoded together: their positions among the evaluated test examples, x ``[B, …]``, and q(z|x)."""

    positions: np.ndarray
    x: Tensor
    q: Posterior


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in evaluation mode, with its basic evaluation."""

    method: Method
    ctx: EvaluationContext
    data: Data
    config: BasicSettings
    basic: Evaluation
    chunk: int = 1  # (example, sample) pairs decoded at a time

    @property
    def has_latent(self) -> bool:
        return self.ctx.model.latent_dim > 0

    def blocks(self, count: int) -> Iterator[Block]:
        """Yield ``count`` test examples in blocks of ``config.batch_size``, evenly spaced among the evaluated ones.

        The sample is the same for every cell. ``ctx.block`` is set for each block, so each has its own noise.
        """
        sample = evenly_spaced(len(self.basic.columns["index"]), count)
        positions, blocks = self.data.blocks("test", sample, self.config.batch_size)
        start = 0
        for self.ctx.block, x in enumerate(blocks):
            self.ctx.check_cancelled()
            yield Block(positions[start : start + len(x)], x, self.method.posterior(self.ctx, x, train=False))
            start += len(x)

    def measure_sample(
        self, count: int, measure: Callable[[Block], Mapping[str, Tensor]]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the positions ``[M]`` of ``count`` test examples, and the values of ``measure`` ``[M, …]`` for them.

        ``measure`` returns the values of a block by name, ``[B, …]`` each.
        """
        positions, parts = [], []
        for block in self.blocks(count):
            parts.append({name: values.cpu() for name, values in measure(block).items()})
            positions.append(block.positions)
        values = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        return np.concatenate(positions), values
