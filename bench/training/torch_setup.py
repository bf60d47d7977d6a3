"""The state of torch while a cell is trained, evaluated or used, and its restoration for the caller."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import backends

from bench.core.errors import UserError
from bench.core.host import LOCK, unchanged_process
from bench.models.allocator import tune_malloc

#: Flags of torch's backends: object, attribute, value.
FLAGS: tuple[tuple[Any, str, bool], ...] = (
    (backends.cudnn, "enabled", True),
    (backends.cudnn, "benchmark", False),
    (backends.cudnn, "deterministic", True),
    (backends.mkldnn, "enabled", True),
    (backends.mkldnn, "deterministic", False),
    (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
    (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
)
#: Objects with a setting ``fp32_precision``; one with the value "none" follows an earlier one.
PRECISIONS: tuple[Any, ...] = (
    *(backends, backends.cudnn, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
    *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
)


@contextmanager
def torch_settings(device: str, threads: int | None = None) -> Iterator[None]:
    """Set torch's global state to that of every cell, and restore the caller's on exit.

    Within the context: float32 in full precision without autocast, deterministic convolutions, the CPU as default
    device, gradients on, ``threads`` threads (None: the caller's). torch's random generators may be seeded: their
    states are restored, too. Other threads of this process wait, because they share the state.
    """
    gpu = torch.device(device)
    gpus = [] if gpu.type == "cpu" else [torch.cuda.current_device() if gpu.index is None else gpu.index]
    with LOCK, ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(unchanged_process())  # what is imported within the context may change it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuDNN's LSTMs are not deterministic
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda") if gpus else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        if threads:
            torch.set_num_threads(threads)
        stack.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
        torch.set_deterministic_debug_mode("default")
        for owner, name, value in FLAGS:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        stack.enter_context(full_precision())
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in full precision, whether the caller used torch's old or new settings of it."""
    before: list[str] = []
    matmul, cudnn = None, None
    with suppress(RuntimeError):  # neither can be read after a use of the new settings
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        cudnn = backends.cudnn.allow_tf32
    for owner in PRECISIONS:
        before.append(owner.fp32_precision)  # its own value, because those that it follows are "none" by now
        owner.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest" if matmul is None else matmul)  # torch's default if unreadable
        backends.cudnn.allow_tf32 = True if cudnn is None else cudnn
        for owner, value in zip(PRECISIONS, before, strict=True):
            owner.fp32_precision = value


@contextmanager
def training_settings(threads: int, device: str, gpu_share: float) -> Iterator[None]:
    """The same, with an allocator and free memory for training.

    ``gpu_share`` limits this process to a fraction of the GPU's memory; 0 and 1 set no limit.
    """
    with torch_settings(device, threads), ExitStack() as stack:
        tune_malloc()
        gc.collect()
        gc.freeze()  # what exists now, modules above all, is not searched for garbage again
        stack.callback(gc.unfreeze)
        if device == "cuda":
            torch.cuda.empty_cache()
            if 0 < gpu_share < 1:
                stack.callback(torch.cuda.set_per_process_memory_fraction, torch.cuda.get_per_process_memory_fraction())
                torch.cuda.set_per_process_memory_fraction(gpu_share)
        yield


def available_device(device: str) -> str:
    """Return ``device``, or the best one for "auto"; ``UserError`` if this machine does not have it."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if gpus else "cpu"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError):
        parsed = torch.device("meta")
    if parsed.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {device!r}: there are 'auto', 'cpu' and 'cuda'")
    if parsed.type == "cuda" and (parsed.index or 0) >= gpus:
        raise UserError(f"torch finds {f'{gpus} GPUs' if gpus else 'no GPU'} here: use the device 'cpu' or 'auto'")
    return "cpu" if parsed.type == "cpu" else str(parsed)


def gpu_name(device: str) -> str | None:
    """Return the name of the GPU for ``device`` "cuda", otherwise None."""
    return torch.cuda.get_device_name() if device == "cuda" else None
