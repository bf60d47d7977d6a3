"""Configure torch before a cell is trained or evaluated."""

from __future__ import annotations

import gc
import os

import torch

from bench.models.allocator import tune_malloc


def configure_torch(threads: int, device: str, gpu_share: float) -> None:
    """Set the thread count, full float32 precision and deterministic convolutions, and release unused memory.

    ``gpu_share`` limits this process to a fraction of the GPU's memory; 0 and 1 set no limit.
    """
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)  # another cell's method or a notebook may have changed it
    torch.set_float32_matmul_precision("highest")
    tune_malloc()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuDNN's LSTMs are not deterministic
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        if 0 < gpu_share < 1:
            torch.cuda.set_per_process_memory_fraction(gpu_share)


def gpu_name(device: str) -> str | None:
    """Return the name of the GPU for ``device`` "cuda", otherwise None."""
    return torch.cuda.get_device_name() if device == "cuda" else None
