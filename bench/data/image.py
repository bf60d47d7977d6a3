"""Image sets as tensors: Bernoulli means, binarised afresh in training and once for validation and test.

Dynamic binarisation as in Salakhutdinov & Murray (2008) and Burda et al. (2016); He et al. (2019) draw validation and
test images once as well, without a seed. Here they are the same bits on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bench.data.dataset import DataInfo

BINARISATION_SEED = 20_190_506
POOLINGS = {"mean": "share of ink", "any": "ink anywhere in a block"}


@dataclass
class ImageData:
    """An image set on one device.

    ``train``: float32 ``[N, size, size]`` Bernoulli means; ``val`` and ``test``: float32 ``[N, 1, size, size]`` of 0
    and 1, as the model takes them. ``labels``: int64 ``[N]`` by split, or empty; ``label_names`` are what they index.
    """

    info: DataInfo  # of the images as they are here: ``info.shape`` is (size, size)
    train: Tensor
    val: Tensor
    test: Tensor
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: DataInfo, arrays: Mapping[str, np.ndarray], size: int = 28, pooling: str = "mean") -> ImageData:
        """The images of a prepared set, pooled to ``size``, a divisor of the prepared one, by ``pool``.

        ``info`` describes them as they come to be.
        """
        train, val, test = (pool(arrays[split], size, pooling) for split in ("train", "val", "test"))
        labels = {split: arrays[f"{split}_labels"] for split in ("train", "val", "test") if f"{split}_labels" in arrays}
        return cls(
            info=info,
            train=torch.from_numpy(train),
            val=torch.from_numpy(binarise(val, stream=1)).unsqueeze(1),
            test=torch.from_numpy(binarise(test, stream=2)).unsqueeze(1),
            labels=labels,
            label_names=tuple(arrays["label_names"].tolist()) if "label_names" in arrays else (),
        )

    @property
    def fingerprint(self) -> str:
        """Of the prepared 28×28 arrays, whatever the size here."""
        return self.info.fingerprint

    def to(self, device: torch.device | str) -> ImageData:
        """The same set on ``device``."""
        moved = {split: getattr(self, split).to(device) for split in ("train", "val", "test")}
        return dataclasses.replace(self, **moved)

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """The batches of one pass: a permutation in whole batches, for BatchNorm cannot take a batch of one."""
        permutation = torch.randperm(len(self.train), generator=generator).to(self.train.device)
        whole = permutation[: len(permutation) // batch_size * batch_size]
        return [part for part in whole.split(batch_size) if len(part)]

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Training images ``index`` (int64 ``[B]``), binarised afresh: float32 ``[B, 1, size, size]``.

        The uniform numbers are drawn on the generator's device, so a CPU generator gives a GPU the CPU's images.
        """
        means = self.train[index].unsqueeze(1)
        uniform = torch.rand(means.shape, generator=generator, device=generator.device)
        return (uniform.to(means.device) < means).float()

    def blocks(
        self, split: str, which: int | np.ndarray | None, size: int, equal_lengths: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """Images of a split (the first so many, those at some places, all), ``size`` to a block; and their places."""
        images = getattr(self, split)
        if isinstance(which, np.ndarray):
            return which, list(images[torch.from_numpy(which).to(images.device)].split(size))
        return np.arange(len(images[:which])), list(images[:which].split(size))

    def references(self, count: int | None) -> dict[str, float]:
        return {"independent_pixels": self.independent_pixels_nll(count)}

    def scaled(self, nll: float, count: int | None) -> dict[str, float]:
        """Bits per pixel."""
        return {"bpd": nll / (self.test[0].numel() * math.log(2))}

    def independent_pixels_nll(self, test_examples: int | None = None) -> float:
        """The NLL to beat without any model, in nats per image.

        Of the first ``test_examples`` test images (None: all) under independent Bernoulli pixels with the training
        frequencies. These are kept 1/(2N) away from 0 and 1, as if half an image of N had been otherwise.
        """
        margin = 1 / (2 * len(self.train))
        frequency = self.train.double().mean(dim=0).clamp(margin, 1 - margin)
        test = self.test[:test_examples, 0].double()
        log_likelihood = test * frequency.log() + (1 - test) * (-frequency).log1p()
        return -log_likelihood.sum(dim=(1, 2)).mean().item()


def pool(means: np.ndarray, size: int, pooling: str = "mean") -> np.ndarray:
    """Bernoulli means ``[N, S, S]`` of square blocks of pixels: float32 ``[N, size, size]``; size divides S.

    ``mean``: the share of ink in a block. ``any``: the probability that any of a block's pixels is ink, so that
    binarising the result is the same in distribution as binarising at S and taking block maxima; it keeps thin
    strokes whole where ``mean`` leaves mostly the noise of binarisation.
    """
    full = means.shape[-1]
    if size < 1 or full % size:
        raise ValueError(f"image size {size} does not divide {full}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling}")
    if size == full:
        return means
    # In float64, rounded once at the end: the same bits whatever the order of the sums and products.
    blocks = means.reshape(-1, size, full // size, size, full // size).astype(np.float64)
    pooled = blocks.mean(axis=(2, 4)) if pooling == "mean" else 1 - (1 - blocks).prod(axis=(2, 4))
    return pooled.astype(np.float32)


def binarise(means: np.ndarray, stream: int, seed: int = BINARISATION_SEED) -> np.ndarray:
    """Bernoulli draws of ``means`` as float32 of the same shape, counter-based: the same bits everywhere."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
    return (generator.random(means.shape, dtype=np.float32) < means).astype(np.float32)
