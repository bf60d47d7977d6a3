"""What one cell takes of a machine."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.provenance import cores


@dataclass(frozen=True)
class Resources:
    """Executor, and resources of one cell."""

    executor: str = "ray"  # or "local"
    cpus_per_cell: int = 1
    gpus_per_cell: float = 0.0
    address: str | None = None  # of a running Ray cluster

    def max_parallel(self, cells: int) -> int:
        """Return how many of ``cells`` cells this machine runs at the same time."""
        if self.executor == "local":
            return 1
        slots = max(1, cores() // self.cpus_per_cell)
        if self.gpus_per_cell:
            import torch

            slots = min(slots, int(torch.cuda.device_count() / self.gpus_per_cell))
        return max(1, min(slots, cells))

    def cells_per_device(self, cells: int) -> int:
        """Return how many of ``cells`` cells share a device: a GPU if they use one, otherwise the processor."""
        parallel = self.max_parallel(cells)
        return min(parallel, max(1, int(1 / self.gpus_per_cell))) if self.gpus_per_cell else parallel
