"""Prepared data sets as tensors: the batches of training and evaluation, for either modality."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bench.core.config import ImageModelConfig, TextModelConfig, TrainConfig
from bench.data.dataset import PAD, DataInfo, Prepared
from bench.data.image import POOLINGS, ImageData
from bench.data.text import TextData

ModelConfig = ImageModelConfig | TextModelConfig


class Data(Protocol):
    """A data set on one device: ``train`` in the form that ``batch`` needs, ``val`` and ``test`` as model inputs."""

    info: DataInfo
    train: Tensor
    val: Tensor
    test: Tensor
    labels: dict[str, np.ndarray]  #: int64 ``[N]`` by split; empty without labels.

    def to(self, device: torch.device | str) -> Data:
        """Return a copy on ``device``."""

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """Return the batches of one epoch: int64 indices ``[B]`` into ``train``, each for ``batch``."""

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training examples ``index`` (int64 ``[B]``) as model inputs ``[B, …]``."""

    def blocks(
        self, split: str, which: int | np.ndarray | None, size: int, equal_lengths: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """Return the indices ``[N]`` and the model inputs of some examples of a split, in blocks of at most ``size``.

        ``which``: the first so many, the examples with these indices, or all (None). ``equal_lengths``: only sentences
        of the same length in a block, so that some blocks are small.
        """

    def references(self, count: int | None) -> dict[str, float]:
        """Return reference NLLs of the first ``count`` test examples in nats per example.

        Those of models without latent variables, and of the true distribution if it is known.
        """

    def unit_metrics(self, nll: float, count: int | None) -> dict[str, float]:
        """Return the NLL of the first ``count`` test examples in the units of the modality."""


def load(prepared: Prepared, model: ModelConfig) -> Data:
    """Return the data set on the CPU, in the form that ``model`` needs."""
    info = apply_model_config(prepared.info, model)
    if isinstance(model, ImageModelConfig):
        return ImageData.from_arrays(info, prepared.arrays(), model.image_size, model.pooling)
    return TextData.from_arrays(info, prepared.arrays(), model.vocabulary, model.words)


def apply_model_config(info: DataInfo, model: ModelConfig) -> DataInfo:
    """Return the description of the data after pooling, vocabulary reduction and truncation for ``model``."""
    if isinstance(model, ImageModelConfig):
        notes, size = info.notes, model.image_size
        if size != (full := info.shape[-1]):
            notes = (*notes, f"Images pooled from {full}×{full} to {size}×{size} ({POOLINGS[model.pooling]}).")
        return dataclasses.replace(info, shape=(size, size), notes=notes)
    longest = info.shape[0] if model.words is None else min(model.words + 2, info.shape[0])
    vocabulary = min(model.vocabulary or info.vocabulary, info.vocabulary)
    return dataclasses.replace(info, shape=(longest,), vocabulary=vocabulary)


def batches_per_pass(prepared: Prepared, model: ModelConfig, train: TrainConfig) -> int:
    """Return the number of training batches per pass: full ones, or with ``equal_lengths`` all of each length."""
    if isinstance(model, ImageModelConfig) or not train.equal_lengths:
        return prepared.info.sizes["train"] // train.batch_size
    lengths = (prepared.arrays()["train"] != PAD).sum(axis=1)
    _, counts = np.unique(np.minimum(lengths, apply_model_config(prepared.info, model).shape[0]), return_counts=True)
    return int((-(-counts // train.batch_size)).sum())
