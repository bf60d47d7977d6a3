"""torch.compile for the networks of a model while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from bench.core.errors import UserError
from bench.models.vae import VAE


def compile_networks(model: VAE, dynamic: bool) -> None:
    """From now on ``features`` and the decoder's ``log_prob`` run compiled in training mode; ``dynamic``: for batches
    whose shapes differ.

    They run as they are in evaluation; within ``second_order``, for compiled gradients have no gradients; and while
    operations are counted, for those of compiled code are not seen.
    """
    for module, name in ((model.features, "forward"), (model.decoder, "log_prob")):
        setattr(module, name, _compiled(module, getattr(module, name), dynamic))


def _compiled(module: nn.Module, plain: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
    fast = torch.compile(plain, dynamic=dynamic, options={"fallback_random": True})  # dropout as it would be without
    layers = [layer for layer in module.modules() if hasattr(layer, "second_order")]

    def run(*args: Any) -> Any:
        aside = not module.training or _get_current_dispatch_mode() or any(layer.second_order for layer in layers)
        return (plain if aside else fast)(*args)

    return run


def check_compiler(device: str) -> None:
    """Refuse where torch has nothing to compile with."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    try:
        there = has_triton() if device == "cuda" else get_cpp_compiler()
    except Exception:  # of several kinds
        there = False
    if not there:
        needed = "Triton" if device == "cuda" else "a C++ compiler (g++, or the one that CXX names)"
        raise UserError(f"--compile needs {needed}, which is not here")
