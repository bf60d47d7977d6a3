"""Prepared data sets as tensors: what training and evaluation take batches from, whatever the modality."""

from __future__ import annotations

import zlib
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from bench.datasets import DataInfo, Prepared
from bench.errors import UserError


class Data(Protocol):
    """A data set on one device. ``train`` as ``batch`` needs it, ``val`` and ``test`` as the model takes them."""

    info: DataInfo
    train: Tensor
    val: Tensor
    test: Tensor

    def to(self, device: torch.device | str) -> Data:
        """The same set on ``device``."""

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """The training batches of one pass: int64 indices ``[B]`` each, where ``batch`` wants them."""

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Training examples ``index`` as the model takes them: ``[B, …]``."""

    def blocks(self, split: str, count: int | None, size: int) -> tuple[np.ndarray, list[Tensor]]:
        """The first ``count`` examples of a split (None: all), ``size`` to a block; and their places in the split."""

    def references(self, count: int | None) -> dict[str, float]:
        """What knows nothing, or everything: NLLs of the first ``count`` test examples, in nats per example."""

    def scaled(self, nll: float, count: int | None) -> dict[str, float]:
        """The NLL of the first ``count`` test examples in the units of the modality."""


def arrays(prepared: Prepared) -> dict[str, np.ndarray]:
    """Everything in the prepared file. ``UserError`` where it is damaged."""
    try:
        with np.load(prepared.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise UserError(f"{prepared.path} is damaged; remove it and run again") from error


def load(prepared: Prepared, model: Any) -> Data:
    """The prepared set as a model of this configuration (``ImageModelConfig``, ``TextModelConfig``) takes it, on the
    CPU."""
    if prepared.info.modality == "image":
        from bench.data.image import ImageData

        return ImageData.of(prepared.info, arrays(prepared), model.image_size, model.pooling)
    from bench.data.text import TextData

    return TextData.of(prepared.info, arrays(prepared), model.vocabulary, model.words)
