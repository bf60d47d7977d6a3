"""The arithmetic of a model's networks: float32, TF32 on a GPU's tensor cores, or bfloat16 by torch's autocast.

Whatever they compute in, all that is made of what they give stays float32 or float64: posteriors and their samples,
KL, likelihoods and importance weights. So do parameters, gradients and optimiser states.
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
    """Within: the model's networks compute in ``precision``, a key of ``bench.config.PRECISIONS``.

    The backward pass belongs behind it, or into ``full``. ``frozen``: no parameter's gradient is wanted within, so that
    each weight is rounded once and not at every use.
    """
    device = next(model.parameters()).device.type
    check_precision(precision, device)
    if precision == FULL_PRECISION:
        yield
    elif precision == "tf32":
        with tf32():
            yield
    else:
        kept = no_autocast(device)  # the posterior is not one of the networks' sums

        def enter(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept.__enter__()
            return tuple(h.float() for h in inputs)

        def leave(*_: object) -> None:
            kept.__exit__(None, None, None)

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
    """Within: every operation in the type of what it is given, as gradients want it."""
    return torch.autocast(device, enabled=False)


@contextmanager
def tf32() -> Iterator[None]:
    """Within: products of float32 matrices on CUDA keep ten bits of their factors' mantissas."""
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
    """Refuse what a device does not have."""
    if precision == "tf32" and device != "cuda":
        raise UserError("precision tf32 is arithmetic of GPUs: on a CPU take float32 or bfloat16")
