"""Prepared data sets as tensors: the batches of training and evaluation, for every modality."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.core.config import ImageModelConfig, ModelConfig, TextModelConfig, TrainConfig, VectorModelConfig
from bench.data.base import Data as Data
from bench.data.dataset import PAD, DataInfo, Prepared
from bench.data.image import POOLINGS, ImageData, IntensityData
from bench.data.text import TextData
from bench.data.vector import VectorData


def load(prepared: Prepared, model: ModelConfig) -> Data:
    """Return the data set on the CPU, in the form that ``model`` needs."""
    info = apply_model_config(prepared.info, model)
    if isinstance(model, ImageModelConfig):
        if info.values == "intensity":
            return IntensityData.from_arrays(info, prepared.arrays(), model.image_size)
        return ImageData.from_arrays(info, prepared.arrays(), model.image_size, model.pooling)
    if isinstance(model, VectorModelConfig):
        return VectorData.from_arrays(info, prepared.arrays(), model)
    return TextData.from_arrays(info, prepared.arrays(), model.vocabulary, model.words)


def apply_model_config(info: DataInfo, model: ModelConfig) -> DataInfo:
    """Return the description of the data after pooling, vocabulary reduction and truncation for ``model``."""
    if isinstance(model, ImageModelConfig):
        info = info.with_intensities() if model.values == "intensity" else info
        notes, size = info.notes, model.image_size
        if size != (full := info.shape[-1]):
            pooling = "mean" if model.values == "intensity" else model.pooling
            notes = (*notes, f"Images pooled from {full}×{full} to {size}×{size} ({POOLINGS[pooling]}).")
        return dataclasses.replace(info, shape=(*info.shape[:-2], size, size), notes=notes)
    if isinstance(model, VectorModelConfig):
        return info
    longest = info.shape[0] if model.words is None else min(model.words + 2, info.shape[0])
    vocabulary = min(model.vocabulary or info.vocabulary, info.vocabulary)
    return dataclasses.replace(info, shape=(longest,), vocabulary=vocabulary)


def batches_per_pass(prepared: Prepared, model: ModelConfig, train: TrainConfig) -> int:
    """Return the number of training batches per pass: full ones, or with ``equal_lengths`` all of each length."""
    if not isinstance(model, TextModelConfig) or not train.equal_lengths:
        return prepared.info.sizes["train"] // train.batch_size
    lengths = (prepared.arrays()["train"] != PAD).sum(axis=1)
    _, counts = np.unique(np.minimum(lengths, apply_model_config(prepared.info, model).shape[0]), return_counts=True)
    return int((-(-counts // train.batch_size)).sum())
