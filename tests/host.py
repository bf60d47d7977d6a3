"""The state of a process that a library must leave as it is."""

from __future__ import annotations

import faulthandler
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import backends
from torch.overrides import _get_current_function_mode_stack

from bench.training.torch_setup import FLAGS, PRECISIONS


def host_state() -> dict[str, Any]:
    """Return the global state of Python, NumPy, torch and matplotlib that can be compared."""
    name, keys, *rest = np.random.get_state()
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "random": random.getstate(),
        "numpy random": (name, keys.tolist(), rest),
        "numpy errors": np.geterr(),
        "hooks": (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook),
        "streams": (sys.stdout, sys.stderr),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "faults": faulthandler.is_enabled(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "threads": [thread.name for thread in threading.enumerate()],
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "matplotlib": dict(matplotlib.rcParams.copy()) | {"backend": matplotlib.get_backend(auto_select=False)},
        **torch_state(),
    }


def torch_state() -> dict[str, Any]:
    return {
        "torch random": torch.random.get_rng_state().tolist(),
        "cuda": torch.cuda.is_initialized(),
        "dtype": torch.get_default_dtype(),
        "device": (torch.get_default_device(), len(_get_current_function_mode_stack())),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": torch.get_deterministic_debug_mode(),
        "flags": [getattr(owner, name) for owner, name, _ in FLAGS],
        "precision": [owner.fp32_precision for owner in PRECISIONS],
        "old precision": [readable(torch.get_float32_matmul_precision), readable(lambda: backends.cudnn.allow_tf32)],
    }


def readable(setting: Callable[[], object]) -> object:
    """Return an old setting of precision; None while torch cannot say."""
    with suppress(RuntimeError):
        return setting()
    return None


def changed(before: dict[str, Any]) -> dict[str, Any]:
    """Return what differs from an earlier ``host_state()``."""
    return {name: value for name, value in host_state().items() if value != before[name]}
