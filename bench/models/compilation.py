"""Training with torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from bench.core.errors import UserError
from bench.models.vae import VAE


def compile_networks(model: VAE, dynamic: bool) -> None:
    """Compile ``features`` and the decoder's ``log_prob`` for training mode.

    They run uncompiled in evaluation mode, within ``second_order`` (compiled gradients are not differentiable), and
    while FLOPs are counted (the counter does not see compiled code).

    Args:
        model: Changed in place.
        dynamic: Whether batches differ in shape.
    """
    for module, name in ((model.features, "forward"), (model.decoder, "log_prob")):
        setattr(module, name, _compiled(module, getattr(module, name), dynamic))


def _compiled(module: nn.Module, eager: Callable[..., Tensor], dynamic: bool) -> Callable[..., Tensor]:
    fast = torch.compile(eager, dynamic=dynamic, options={"fallback_random": True})  # the same dropout masks as eager
    layers = [layer for layer in module.modules() if hasattr(layer, "second_order")]

    def run(*args: Tensor | int) -> Tensor:
        use_eager = not module.training or _get_current_dispatch_mode() or any(layer.second_order for layer in layers)
        return (eager if use_eager else fast)(*args)

    return run


def check_compiler(device: str) -> None:
    """Raise ``UserError`` if torch.compile has no backend for the device."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    try:
        available = has_triton() if device == "cuda" else get_cpp_compiler()
    except Exception:  # several types
        available = False
    if not available:
        needed = "Triton" if device == "cuda" else "a C++ compiler (g++, or the one named by CXX)"
        raise UserError(f"--compile needs {needed}, which was not found: install it or leave --compile out")
