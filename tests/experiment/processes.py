"""Run functions in forked processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(FORK is None, reason="needs fork")


def start(work: Callable[[], object]):
    """Start ``work`` in a forked process that ends without pytest's own clean-up."""
    process = FORK.Process(target=lambda: (work(), os._exit(0)))
    process.start()
    return process


def fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; return its exit status, negative after a signal."""
    process = start(work)
    process.join(120)
    return process.exitcode
