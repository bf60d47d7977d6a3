"""Text sets as tensors: padded rows of word ids, batched with sentences of the same or of similar length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bench.data.dataset import END, PAD, SPECIALS, UNKNOWN, DataInfo

POOL = 50  # batches that are sorted by length together


@dataclass
class TextData:
    """A text set on one device: int32 ``[N, L]``, rows ``<s> w1 … wn </s>`` padded with 0.

    The model takes int64 rows cut to the longest of their batch. ``lengths``: int64 ``[N]`` by split, on the CPU,
    the two marks counted. ``true_nll``: float64 ``[N]`` of the test set under the law that made it, where it is known.
    """

    info: DataInfo  # of the sentences as they are here: ``info.vocabulary`` and ``info.shape`` are the model's
    train: Tensor
    val: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    lengths: dict[str, Tensor]
    true_nll: np.ndarray | None = None
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls, info: DataInfo, arrays: Mapping[str, np.ndarray], vocabulary: int | None = None, words: int | None = None
    ) -> TextData:
        """The sentences of a prepared set: at most ``vocabulary`` words, others unknown, and cut after ``words``.

        ``info`` describes them as they come to be.
        """
        splits = {split: truncate(arrays[split], vocabulary, words) for split in ("train", "val", "test")}
        kept = tuple(arrays["vocabulary"][:vocabulary].tolist())
        whole = all(np.array_equal(splits[split], arrays[split]) for split in splits)
        return cls(
            info=info,
            **{split: torch.from_numpy(rows) for split, rows in splits.items()},
            vocabulary=kept,
            lengths={split: torch.from_numpy((rows != PAD).sum(axis=1)) for split, rows in splits.items()},
            true_nll=arrays["test_nll"] if "test_nll" in arrays and whole else None,
        )

    def to(self, device: torch.device | str) -> TextData:
        """The same set on ``device``."""
        moved = {split: getattr(self, split).to(device) for split in ("train", "val", "test")}
        return dataclasses.replace(self, **moved)

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """The batches of one pass in random order: indices ``[B]`` on the CPU.

        ``equal_lengths``: sentences of one length to a batch, as He et al. (2019) have it, and so some small batches.
        Else whole batches of similar lengths: a shuffle, sorted by length within pools of ``POOL`` batches.
        """
        lengths = self.lengths["train"]
        shuffled = torch.randperm(len(lengths), generator=generator)
        if equal_lengths:
            batches = _by_length(shuffled[lengths[shuffled].argsort(stable=True)], lengths, batch_size)
        else:
            whole = shuffled[: len(shuffled) // batch_size * batch_size]
            pools = [pool[lengths[pool].argsort(stable=True)] for pool in whole.split(POOL * batch_size)]
            batches = [part for pool in pools for part in pool.split(batch_size) if len(part)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Training sentences ``index``: int64 ``[B, T]``, T the longest of them. Waits for no work of the device."""
        on_device = index.to(self.train.device, non_blocking=True)
        return self.train[on_device, : int(self.lengths["train"][index].max())].long()

    def blocks(
        self, split: str, which: int | np.ndarray | None, size: int, equal_lengths: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """Sentences of a split (the first so many, those at some places, or all) by length, at most ``size`` to a
        block; and their places in it."""
        lengths, rows = self.lengths[split], getattr(self, split)
        places = torch.from_numpy(which) if isinstance(which, np.ndarray) else torch.arange(len(lengths[:which]))
        index = places[lengths[places].argsort(stable=True)]
        parts = _by_length(index, lengths, size) if equal_lengths else index.split(size)
        return index.numpy(), [rows[i.to(rows.device), : int(lengths[i].max())].long() for i in parts]

    def references(self, count: int | None) -> dict[str, float]:
        """The NLL of words drawn independently with their training frequencies (half a word added to each), and
        that of the law which made the data, with its standard error."""
        words = self.train[:, 1:]
        counts = torch.bincount(words[words != PAD].long().flatten(), minlength=len(self.vocabulary)).double() + 0.5
        counts[:END] = 0  # neither a pad nor a start is ever predicted
        log_probability = (counts / counts.sum()).log()
        log_probability[:END] = 0.0
        found = {"unigram": -log_probability[self.test[:count, 1:].long()].sum(1).mean().item()}
        if self.true_nll is not None:
            exact = self.true_nll[:count]
            found["true_generator"] = exact.mean().item()
            found["true_generator_se"] = exact.std(ddof=1).item() / math.sqrt(len(exact))
        return found

    def scaled(self, nll: float, count: int | None) -> dict[str, float]:
        """Perplexity; words per sentence, ``</s>`` counted and ``<s>`` not; the share of unknown ones among them."""
        words = (self.lengths["test"][:count] - 1).double().mean().item()
        unknown = (self.test[:count] == UNKNOWN).sum(1).double().mean().item()
        return {"ppl": math.exp(nll / words), "words": words, "unknown": unknown / words}

    def sentences(self, rows: Tensor) -> list[str]:
        """Word ids ``[B, T]`` as texts, without marks; each ends with its first ``</s>``."""
        texts = []
        for row in rows.tolist():
            row = row[: row.index(END)] if END in row else row
            texts.append(" ".join(self.vocabulary[word] for word in row if word >= len(SPECIALS) or word == UNKNOWN))
        return texts


def _by_length(index: Tensor, lengths: Tensor, size: int) -> list[Tensor]:
    """Sentences ``index``, sorted by length, in parts of one length and at most ``size`` each."""
    _, counts = lengths[index].unique(return_counts=True)
    return [part for group in index.split(counts.tolist()) for part in group.split(size)]


def truncate(rows: np.ndarray, vocabulary: int | None, words: int | None) -> np.ndarray:
    """Rows with rarer words unknown and cut after ``words`` words, their ``</s>`` put behind the cut."""
    if vocabulary is not None:
        rows = np.where(rows >= vocabulary, np.int32(UNKNOWN), rows)
    if words is not None and rows.shape[1] > words + 2:
        cut = rows[:, : words + 2].copy()
        cut[cut[:, -1] != PAD, -1] = END
        rows = cut
    return rows
