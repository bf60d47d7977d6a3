"""How many (example, sample) pairs fit into a memory budget, measured on the model itself; and what if they do not."""

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

#: Bytes that decoding may take at a time: on a CPU what its caches like, on a GPU what keeps it busy.
BUDGET = {"cpu": 128 * 2**20, "cuda": 2**30}
PROBE_PAIRS = 8  # pairs decoded to see what they take

#: In what allocators, cuBLAS, cuDNN and the system say of it.
OOM_MESSAGES = ("allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
ADVICE = (
    "out of memory: fewer cells side by side (--cpus-per-cell, --gpus-per-cell), a smaller train.batch_size or "
    "evaluation.batch_size"
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, says that there is no more memory."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in OOM_MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


def retry_with_smaller_chunk(chunk: int, work: Callable[[int], Result]) -> tuple[Result, int]:
    """``work(chunk)``, with half the chunk each time memory runs out, down to one pair; and the chunk it took."""
    while True:
        try:
            return work(chunk), chunk
        except Exception as error:
            if chunk == 1 or not out_of_memory(error):
                raise
        chunk //= 2  # out here, where the error no longer holds what the work had made
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class PeakMemory(TorchDispatchMode):
    """Within: ``peak`` is the most bytes that the results of torch's operations have taken at once, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.held = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if id(storage) not in before:  # neither a view nor done in place
                self.held += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return made

    def _freed(self, size: int) -> None:
        self.held -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return list({id(storage): storage for t in tensors for storage in [t.untyped_storage()]}.values())


@torch.no_grad()
def auto_chunk_size(model: VAE, blocks: Sequence[Tensor], share: float = 1.0) -> int:
    """How many pairs to decode at a time of a model in evaluation mode: as many of the largest examples in ``blocks``
    ``[B, …]`` as a ``share`` of the memory budget of their device allows."""
    x = max(blocks, key=lambda block: block[0].numel())[:1]
    peaks = []
    for pairs in (
        PROBE_PAIRS,
        2 * PROBE_PAIRS,
    ):  # the difference tells what a pair takes, apart from what is always taken
        with PeakMemory() as memory:
            model.log_prob(x, torch.zeros(1, pairs, model.latent_dim, device=x.device))
        peaks.append(memory.peak)
    each = max(1, (peaks[1] - peaks[0]) // PROBE_PAIRS)
    return max(1, (int(share * BUDGET[x.device.type]) - (peaks[0] - PROBE_PAIRS * each)) // each)
