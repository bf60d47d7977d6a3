"""Size of decoding chunks: measured on the model against a memory budget, and halved if memory runs out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.models.vae import VAE

Result = TypeVar("Result")

#: Bytes that decoding may use at a time: on a CPU what fits its caches, on a GPU what keeps it busy.
BUDGET = {"cpu": 128 * 2**20, "cuda": 2**30}
PROBE_PAIRS = 8  # pairs decoded to measure their memory

#: Messages of allocators, cuBLAS, cuDNN and the operating system.
OOM_MESSAGES = ("allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
ADVICE = (
    "out of memory: run fewer cells in parallel (--cpus-per-cell, --gpus-per-cell), or set a smaller train.batch_size "
    "or evaluation.batch_size"
)


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that memory ran out."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, (RuntimeError, OSError)) and any(message in str(error) for message in OOM_MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


def retry_with_smaller_chunk(chunk: int, work: Callable[[int], Result]) -> tuple[Result, int]:
    """Return ``work(chunk)`` and the chunk size used; halve it each time memory runs out, down to one pair."""
    while True:
        try:
            return work(chunk), chunk
        except Exception as error:
            if chunk == 1 or not out_of_memory(error):
                raise
        chunk //= 2  # outside the handler, because the error keeps the tensors of the failed attempt alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chunked_log_prob(model: VAE, x: Tensor, z: Tensor, chunk: int) -> Tensor:
    """Return log p(x|z): x ``[B, …]``, z ``[B, S, D]`` -> ``[B, S]``, decoding at most ``chunk`` pairs at a time."""
    parts = []
    for examples, codes in zip(x.split(chunk), z.split(chunk), strict=True):
        samples = max(1, chunk // len(examples))
        parts.append(torch.cat([model.log_prob(examples, part) for part in codes.split(samples, dim=1)], dim=1))
    return torch.cat(parts)


class PeakMemory(TorchDispatchMode):
    """Context manager that measures ``peak``: the most bytes held by results of torch operations at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.held = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in before:  # neither a view nor an in-place result
                self.held += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return result

    def _freed(self, size: int) -> None:
        self.held -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return list({id(storage): storage for t in tensors for storage in [t.untyped_storage()]}.values())


@torch.no_grad()
def auto_chunk_size(model: VAE, blocks: Sequence[Tensor]) -> int:
    """Return how many (example, sample) pairs fit into the device's memory budget.

    Measured by decoding the largest example of ``blocks`` ``[B, …]`` with a model in evaluation mode.
    """
    x = max(blocks, key=lambda block: block[0].numel())[:1]
    peaks = []
    for pairs in (PROBE_PAIRS, 2 * PROBE_PAIRS):  # the difference excludes what is allocated once
        with PeakMemory() as memory:
            model.log_prob(x, torch.zeros(1, pairs, model.latent_dim, device=x.device))
        peaks.append(memory.peak)
    per_pair = max(1, (peaks[1] - peaks[0]) // PROBE_PAIRS)
    constant = peaks[0] - PROBE_PAIRS * per_pair
    return max(1, (BUDGET[x.device.type] - constant) // per_pair)
