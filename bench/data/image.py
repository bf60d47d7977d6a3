"""Image data as tensors: dynamic binarisation in training, fixed binarisation of validation and test images.

Dynamic binarisation as in Salakhutdinov & Murray (2008) and Burda et al. (2016). He et al. (2019) also binarise
validation and test images once, without a seed; here the bits are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.data.base import Data, labels_by_split
from bench.data.dataset import SPLITS, DataInfo

BINARISATION_SEED = 20_190_506
VAL_STREAM, TEST_STREAM = 1, 2  #: Random streams of the binarisation of a split.
POOLINGS = {"mean": "mean of each block", "any": "probability that any pixel of a block is on"}


@dataclass(kw_only=True)
class ImageData(Data):
    """Square images on one device; ``info.shape`` is (size, size), after pooling.

    ``train``: float32 ``[N, size, size]``, Bernoulli means. ``val`` and ``test``: float32 ``[N, 1, size, size]``, 0 or
    1.
    """

    @classmethod
    def from_arrays(
        cls, info: DataInfo, arrays: Mapping[str, np.ndarray], size: int = 28, pooling: str = "mean"
    ) -> ImageData:
        """Pool the images of ``Prepared.arrays`` to ``size`` and binarise validation and test images.

        ``info`` describes the result.
        """
        train, val, test = (pool(arrays[split], size, pooling) for split in SPLITS)
        return cls(
            info=info,
            train=torch.from_numpy(train),
            val=torch.from_numpy(binarise(val, VAL_STREAM)).unsqueeze(1),
            test=torch.from_numpy(binarise(test, TEST_STREAM)).unsqueeze(1),
            labels=labels_by_split(arrays),
        )

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training images ``index`` (int64 ``[B]``), newly binarised: float32 ``[B, 1, size, size]``.

        The random numbers are drawn on the generator's device: a CPU generator gives the same images on a GPU.
        """
        means = self.train[index].unsqueeze(1)
        uniform = torch.rand(means.shape, generator=generator, device=generator.device)
        return (uniform.to(means.device) < means).float()

    def references(self, count: int | None) -> dict[str, float]:
        """Return the NLL of independent Bernoulli pixels with the training frequencies.

        Frequencies are clamped to [1/(2N), 1 - 1/(2N)] for N training images.
        """
        margin = 1 / (2 * len(self.train))
        frequency = self.train.double().mean(dim=0).clamp(margin, 1 - margin)
        test = self.test[:count, 0].double()
        log_likelihood = test * frequency.log() + (1 - test) * (-frequency).log1p()
        return {"independent_pixels": -log_likelihood.sum(dim=(1, 2)).mean().item()}

    def unit_metrics(self, nll: float, count: int | None) -> dict[str, float]:
        """Return bits per pixel."""
        return {"bpd": nll / (self.test[0].numel() * math.log(2))}


@dataclass(kw_only=True)
class IntensityData(ImageData):
    """Images of 8-bit values: ``train``, ``val`` and ``test`` are float32 ``[N, C, size, size]``, multiples of 1/255.

    ``info.shape`` is (size, size), or (C, size, size) in colour.
    """

    @classmethod
    def from_arrays(
        cls, info: DataInfo, arrays: Mapping[str, np.ndarray], size: int = 28, pooling: str = "mean"
    ) -> IntensityData:
        """Pool the images of ``Prepared.arrays`` to ``size`` by the mean, and round them to 8 bits."""
        return cls(
            info=info,
            **{split: torch.from_numpy(intensities(arrays[split], size)) for split in SPLITS},
            labels=labels_by_split(arrays),
        )

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training images ``index`` (int64 ``[B]``)."""
        return self.train[index]

    def references(self, count: int | None) -> dict[str, float]:
        """Return nothing: there is no reference model of 8-bit values."""
        return {}


def intensities(images: np.ndarray, size: int) -> np.ndarray:
    """Return images of 8-bit values divided by 255, pooled by the mean and rounded: float32 ``[N, C, size, size]``.

    ``images``: grey ``[N, S, S]`` in [0, 1], or uint8 ``[N, C, S, S]``.
    """
    images = images / np.float32(255) if images.dtype == np.uint8 else images
    channels = images.shape[1] if images.ndim == 4 else 1
    pooled = pool(images.reshape(-1, *images.shape[-2:]), size).reshape(-1, channels, size, size)
    return np.round(255 * pooled) / np.float32(255)


def pool(means: np.ndarray, size: int, pooling: str = "mean") -> np.ndarray:
    """Pool Bernoulli means ``[N, S, S]`` over blocks of pixels: float32 ``[N, size, size]``, size at most S.

    Block i of a side has the pixels ⌊i·S/size⌋ to ⌈(i + 1)·S/size⌉ - 1, as in ``torch.nn.AdaptiveAvgPool2d``: S/size
    pixels, if that is an integer; otherwise neighbouring blocks overlap.

    ``mean``: the mean of a block. ``any``: the probability that any of its pixels is on, so that binarising the result
    has the same means as binarising first and max-pooling; thin strokes stay connected, whereas after ``mean``
    binarisation noise dominates.
    """
    full = means.shape[-1]
    if not 1 <= size <= full:
        raise ValueError(f"images of {full}×{full} pixels cannot be pooled to {size}×{size}")
    if size == full:
        return means
    # In float64, rounded once at the end: the same bits for any order of the sums and products.
    values = means.astype(np.float64)
    if full % size == 0:
        blocks = values.reshape(-1, size, full // size, size, full // size)
        pooled = blocks.mean(axis=(2, 4)) if pooling == "mean" else 1 - (1 - blocks).prod(axis=(2, 4))
        return pooled.astype(np.float32)
    index, pixel = np.arange(size)[:, None], np.arange(full)
    members = (pixel >= index * full // size) & (pixel < -(-(index + 1) * full // size))  # [size, S]
    if pooling == "mean":
        sums = members.astype(np.float64) @ values @ members.T.astype(np.float64)
        return (sums / np.outer(members.sum(axis=1), members.sum(axis=1))).astype(np.float32)
    off = 1 - values
    off = np.stack([off[:, rows].prod(axis=1) for rows in members], axis=1)
    off = np.stack([off[:, :, columns].prod(axis=2) for columns in members], axis=2)
    return (1 - off).astype(np.float32)


def binarise(means: np.ndarray, stream: int, seed: int = BINARISATION_SEED) -> np.ndarray:
    """Return Bernoulli samples of ``means``, float32 of the same shape; counter-based, so equal on every machine."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
    return (generator.random(means.shape, dtype=np.float32) < means).astype(np.float32)
