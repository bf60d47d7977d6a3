"""Base class of data as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from bench.data.dataset import SPLITS, DataInfo


@dataclass(kw_only=True)
class Data(Protocol):
    """A data set on one device: ``train`` in the form that ``batch`` needs, ``val`` and ``test`` as model inputs."""

    info: DataInfo
    train: Tensor
    val: Tensor
    test: Tensor
    labels: dict[str, np.ndarray] = field(default_factory=dict)  #: int64 ``[N]`` by split; empty without labels.

    @property
    def lengths_vary(self) -> bool:
        """Whether training examples have different lengths, so that updates cost differently."""
        return False

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``."""
        return dataclasses.replace(self, **{split: getattr(self, split).to(device) for split in SPLITS})

    def with_val_as_test(self) -> Self:
        """Return a copy whose test split is the validation split, to select settings without the test set."""
        labels = {split: values for split, values in self.labels.items() if split != "test"}
        labels |= {"test": labels["val"]} if "val" in labels else {}
        return dataclasses.replace(self, test=self.val, labels=labels)

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """Return the batches of one epoch: int64 indices ``[B]`` into ``train``, each for ``batch``.

        Unless overridden, the full batches of a random permutation; BatchNorm cannot use a batch of one example.
        """
        permutation = torch.randperm(len(self.train), generator=generator).to(self.train.device)
        full = permutation[: len(permutation) // batch_size * batch_size]
        return [batch for batch in full.split(batch_size) if len(batch)]

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training examples ``index`` (int64 ``[B]``) as model inputs ``[B, …]``."""

    def blocks(
        self, split: str, which: int | np.ndarray | None, size: int, equal_lengths: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """Return the indices ``[N]`` and the model inputs of some examples of a split, in blocks of at most ``size``.

        ``which``: the first so many, the examples with these indices, or all (None). ``equal_lengths``: only sentences
        of the same length in a block, so that some blocks are small.
        """
        inputs = getattr(self, split)
        if isinstance(which, np.ndarray):
            return which, list(inputs[torch.from_numpy(which).to(inputs.device)].split(size))
        return np.arange(len(inputs[:which])), list(inputs[:which].split(size))

    def references(self, count: int | None) -> dict[str, float]:
        """Return reference NLLs of the first ``count`` test examples in nats per example.

        Those of models without latent variables, and of the true distribution if it is known.
        """

    def unit_metrics(self, nll: float, count: int | None) -> dict[str, float]:
        """Return the NLL of the first ``count`` test examples in the units of the modality."""


def labels_by_split(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the labels among ``Prepared.arrays``, int64 ``[N]`` by split; empty without labels."""
    return {split: arrays[f"{split}_labels"] for split in SPLITS if f"{split}_labels" in arrays}
