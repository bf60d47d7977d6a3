"""Precision of the networks: float32, TF32 on a GPU's tensor cores, or bfloat16 by torch's autocast.

Everything computed from the networks' outputs stays in float32 or float64: posteriors and their samples, KL,
likelihoods and importance weights; and so do parameters, gradients and optimiser states.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.core.config import FULL_PRECISION
from bench.core.errors import UserError
from bench.models.vae import VAE


@contextmanager
def autocast(model: VAE, precision: str, frozen: bool = False) -> Iterator[None]:
    """Run the model's networks in a given precision; run the backward pass outside, or within ``no_autocast``.

    Args:
        model: Its head always runs in float32.
        precision: One of ``bench.core.config.PRECISIONS``.
        frozen: No parameter needs a gradient, so each weight is rounded only once.
    """
    device = next(model.parameters()).device.type
    check_precision(precision, device)
    if precision == FULL_PRECISION:
        yield
    elif precision == "tf32":
        with tf32():
            yield
    else:
        float32 = no_autocast(device)

        def enter(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            float32.__enter__()
            return tuple(h.float() for h in inputs)

        def leave(*_: object) -> None:
            float32.__exit__(None, None, None)

        hooks = [
            model.head.register_forward_pre_hook(enter),
            model.head.register_forward_hook(leave, always_call=True),
        ]
        try:
            with torch.autocast(device, torch.bfloat16, cache_enabled=frozen):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def no_autocast(device: str) -> torch.autocast:
    """Return a context in which every operation runs in the type of its inputs, as a backward pass needs."""
    return torch.autocast(device, enabled=False)


@contextmanager
def tf32() -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions on CUDA: 10 bits of mantissa."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def check_precision(precision: str, device: str) -> None:
    """Raise ``UserError`` if the device does not support the precision."""
    if precision == "tf32" and device != "cuda":
        raise UserError("precision tf32 needs a GPU: on a CPU use float32 or bfloat16")
