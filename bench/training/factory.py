"""Configure torch before a cell is trained or evaluated."""

from __future__ import annotations

import gc
import os

import torch

from bench.models.allocator import tune_malloc


def configure_torch(threads: int, device: str, gpu_share: float) -> None:
    """The same arithmetic in every process: thread count, full float32, deterministic convolutions; memory let go."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)  # whatever another cell's method or a notebook has set
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
