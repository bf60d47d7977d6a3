"""Text data as tensors: padded rows of token ids, in batches of sentences of the same or similar length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.data.base import Data, labels_by_split
from bench.data.dataset import END, PAD, SPECIALS, SPLITS, UNKNOWN, DataInfo

POOL = 50  #: Number of batches that are sorted by length together.


@dataclass(kw_only=True)
class TextData(Data):
    """Sentences on one device: int32 ``[N, L]``, rows ``<s> w1 … wn </s>`` padded with 0.

    Model inputs are int64 rows, cut to the longest of their batch. ``info`` describes the sentences after truncation:
    ``info.vocabulary`` and ``info.shape`` are the model's.
    """

    vocabulary: tuple[str, ...]
    lengths: dict[str, Tensor]  #: int64 ``[N]`` by split, on the CPU; ``<s>`` and ``</s>`` are counted.
    true_nll: np.ndarray | None = None  #: float64 ``[N]`` of the test set under the true distribution, if known.

    @classmethod
    def from_arrays(
        cls, info: DataInfo, arrays: Mapping[str, np.ndarray], vocabulary: int | None = None, words: int | None = None
    ) -> TextData:
        """Reduce ``Prepared.arrays`` to the ``vocabulary`` most frequent words and the first ``words`` of a sentence.

        ``info`` describes the result.
        """
        splits = {split: truncate(arrays[split], vocabulary, words) for split in SPLITS}
        unchanged = all(np.array_equal(splits[split], arrays[split]) for split in splits)
        return cls(
            info=info,
            **{split: torch.from_numpy(rows) for split, rows in splits.items()},
            vocabulary=tuple(arrays["vocabulary"][:vocabulary].tolist()),
            labels=labels_by_split(arrays),
            lengths={split: torch.from_numpy((rows != PAD).sum(axis=1)) for split, rows in splits.items()},
            true_nll=arrays["test_nll"] if "test_nll" in arrays and unchanged else None,
        )

    @property
    def lengths_vary(self) -> bool:
        return len(self.lengths["train"].unique()) > 1

    def with_val_as_test(self) -> TextData:
        data, lengths = super().with_val_as_test(), {**self.lengths, "test": self.lengths["val"]}
        return dataclasses.replace(data, lengths=lengths, true_nll=None)

    def order(self, batch_size: int, equal_lengths: bool, generator: torch.Generator) -> list[Tensor]:
        """Return the batches of one epoch in random order: indices ``[B]`` on the CPU.

        ``equal_lengths``: only sentences of the same length in a batch, as in He et al. (2019), so that some batches
        are small. Otherwise full batches of similar lengths: a random permutation is sorted by length within pools of
        ``POOL`` batches.
        """
        lengths = self.lengths["train"]
        shuffled = torch.randperm(len(lengths), generator=generator)
        if equal_lengths:
            batches = _split_by_length(shuffled[lengths[shuffled].argsort(stable=True)], lengths, batch_size)
        else:
            full = shuffled[: len(shuffled) // batch_size * batch_size]
            pools = [pool[lengths[pool].argsort(stable=True)] for pool in full.split(POOL * batch_size)]
            batches = [batch for pool in pools for batch in pool.split(batch_size) if len(batch)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training sentences ``index``: int64 ``[B, T]``, T the longest of them. Does not block a GPU."""
        on_device = index.to(self.train.device, non_blocking=True)
        return self.train[on_device, : int(self.lengths["train"][index].max())].long()

    def blocks(
        self, split: str, which: int | np.ndarray | None, size: int, equal_lengths: bool = False
    ) -> tuple[np.ndarray, list[Tensor]]:
        """See ``Data.blocks``; sentences are sorted by length, blocks are int64 ``[B, T]``."""
        lengths, rows = self.lengths[split], getattr(self, split)
        indices = torch.from_numpy(which if isinstance(which, np.ndarray) else np.arange(len(lengths[:which])))
        indices = indices[lengths[indices].argsort(stable=True)]
        parts = _split_by_length(indices, lengths, size) if equal_lengths else indices.split(size)
        return indices.numpy(), [rows[i.to(rows.device), : int(lengths[i].max())].long() for i in parts]

    def references(self, count: int | None) -> dict[str, float]:
        """Return the NLL of a unigram model, and that of the true distribution with its standard error, if known.

        The unigram model has the training frequencies with half a count added to each word.
        """
        tokens = self.train[:, 1:]
        counts = torch.bincount(tokens[tokens != PAD].long().flatten(), minlength=len(self.vocabulary)).double() + 0.5
        counts[:END] = 0  # <pad> and <s> are never predicted
        log_probability = (counts / counts.sum()).log()
        log_probability[:END] = 0.0
        nlls = {"unigram": -log_probability[self.test[:count, 1:].long()].sum(1).mean().item()}
        if self.true_nll is not None:
            exact = self.true_nll[:count]
            nlls["true_generator"] = exact.mean().item()
            deviation = exact.std(ddof=1).item() if len(exact) > 1 else math.nan
            nlls["true_generator_se"] = deviation / math.sqrt(len(exact))
        return nlls

    def unit_metrics(self, nll: float, count: int | None) -> dict[str, float]:
        """Return perplexity, tokens per sentence (with ``</s>``, without ``<s>``) and the share of unknown words.

        The perplexity of a model that diverged may be infinite.
        """
        words = (self.lengths["test"][:count] - 1).double().mean().item()
        unknown = (self.test[:count] == UNKNOWN).sum(1).double().mean().item()
        perplexity = torch.tensor(nll / words, dtype=torch.float64).exp().item()
        return {"ppl": perplexity, "words": words, "unknown": unknown / words}

    def sentences(self, rows: Tensor) -> list[str]:
        """Return token ids ``[B, T]`` as texts without special tokens except ``<unk>``, up to the first ``</s>``."""
        texts = []
        for row in rows.tolist():
            row = row[: row.index(END)] if END in row else row
            texts.append(" ".join(self.vocabulary[word] for word in row if word >= len(SPECIALS) or word == UNKNOWN))
        return texts


def _split_by_length(index: Tensor, lengths: Tensor, size: int) -> list[Tensor]:
    """Split sentence indices, sorted by length, into parts of at most ``size`` sentences of the same length."""
    _, counts = lengths[index].unique(return_counts=True)
    return [part for group in index.split(counts.tolist()) for part in group.split(size)]


def truncate(rows: np.ndarray, vocabulary: int | None, words: int | None) -> np.ndarray:
    """Replace ids from ``vocabulary`` on by ``<unk>`` and cut rows after ``words`` words; ``</s>`` follows the cut."""
    if vocabulary is not None:
        rows = np.where(rows >= vocabulary, np.int32(UNKNOWN), rows)
    if words is not None and rows.shape[1] > words + 2:
        cut = rows[:, : words + 2].copy()
        cut[cut[:, -1] != PAD, -1] = END
        rows = cut
    return rows
