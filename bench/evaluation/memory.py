"""How many (example, sample) pairs fit into a memory budget, measured on the model itself."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.models.vae import VAE

#: Bytes that decoding may take at a time: on a CPU what its caches like, on a GPU what keeps it busy.
BUDGET = {"cpu": 128 * 2**20, "cuda": 2**30}
PROBE = 8  # pairs decoded to see what they take


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
def chunk_for(model: VAE, blocks: Sequence[Tensor]) -> int:
    """How many pairs to decode at a time of a model in evaluation mode: as many of the largest examples in ``blocks``
    ``[B, …]`` as the memory budget of their device allows."""
    x = max(blocks, key=lambda block: block[0].numel())[:1]
    peaks = []
    for pairs in (PROBE, 2 * PROBE):  # the difference tells what a pair takes, apart from what is always taken
        with PeakMemory() as memory:
            model.log_prob(x, torch.zeros(1, pairs, model.latent_dim, device=x.device))
        peaks.append(memory.peak)
    each = max(1, (peaks[1] - peaks[0]) // PROBE)
    return max(1, (BUDGET[x.device.type] - (peaks[0] - PROBE * each)) // each)
