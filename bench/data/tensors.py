"""Prepared data sets as tensors: what training and evaluation take batches from, whatever the modality."""

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
    """A data set on one device. ``train`` as ``batch`` needs it, ``val`` and ``test`` as the model takes them."""

    info: DataInfo
    train: Tensor
    val: Tensor
    test: Tensor
    labels: dict[str, np.ndarray]  # int64 ``[N]`` by split, where there are some

    def to(self, device: torch.device | str) -> Data:
        """The same set on ``device``."""

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """The training batches of one pass: int64 indices ``[B]`` each, where ``batch`` wants them."""

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Training examples ``index`` as the model takes them: ``[B, …]``."""

    def blocks(
        self, split: str, which: int | np.ndarray | None, size: int, equal_lengths: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """Examples of a split, ``size`` to a block, and their places in the split: the first so many, those at some
        places, or all.

        ``equal_lengths``: text of one length to a block, and so some small blocks.
        """

    def references(self, count: int | None) -> dict[str, float]:
        """What knows nothing, or everything: NLLs of the first ``count`` test examples, in nats per example."""

    def scaled(self, nll: float, count: int | None) -> dict[str, float]:
        """The NLL of the first ``count`` test examples in the units of the modality."""


def load(prepared: Prepared, model: ModelConfig) -> Data:
    """The prepared set as a model of this configuration takes it, on the CPU."""
    info = apply_model_config(prepared.info, model)
    if isinstance(model, ImageModelConfig):
        return ImageData.of(info, prepared.arrays(), model.image_size, model.pooling)
    return TextData.of(info, prepared.arrays(), model.vocabulary, model.words)


def apply_model_config(info: DataInfo, model: ModelConfig) -> DataInfo:
    """What a data set is as a model of this configuration takes it: pooled images, fewer words, shorter documents."""
    if isinstance(model, ImageModelConfig):
        notes, size = info.notes, model.image_size
        if size != (full := info.shape[-1]):
            notes = (*notes, f"Images pooled from {full}×{full} to {size}×{size} ({POOLINGS[model.pooling]}).")
        return dataclasses.replace(info, shape=(size, size), notes=notes)
    longest = info.shape[0] if model.words is None else min(model.words + 2, info.shape[0])
    vocabulary = min(model.vocabulary or info.vocabulary, info.vocabulary)
    return dataclasses.replace(info, shape=(longest,), vocabulary=vocabulary)


def batches_per_pass(prepared: Prepared, model: ModelConfig, train: TrainConfig) -> int:
    """Training batches in a pass: whole ones; or, of sentences of one length each, as many as that takes."""
    if isinstance(model, ImageModelConfig) or not train.equal_lengths:
        return prepared.info.sizes["train"] // train.batch_size
    lengths = (prepared.arrays()["train"] != PAD).sum(axis=1)
    _, counts = np.unique(np.minimum(lengths, apply_model_config(prepared.info, model).shape[0]), return_counts=True)
    return int((-(-counts // train.batch_size)).sum())
