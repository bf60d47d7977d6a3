"""MATLAB files, parsed by a process of its own: some damaged ones crash SciPy's parser, or make it take all memory."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Collection

import numpy as np

from bench.core import safe_io as files

SECONDS = 60.0  # for a file that takes two
MEMORY = 1 << 30  # bytes of the process's address space, of which the libraries themselves take a third
ARRAYS = 1 << 29  # bytes that it hands over at most; chardata.mat holds half of that


def loaded(content: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays ``names`` that are in a MATLAB file; an exception of whatever kind where it is damaged."""
    command = [sys.executable, "-m", __name__, *names]
    # One thread, for each one's stack and buffers are address space.
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, input=content, capture_output=True, check=True, timeout=SECONDS, env=environment)
    return files.read_arrays(io.BytesIO(done.stdout))


def parsed(content: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """The same in this process, which may crash."""
    import scipy.io

    mat = scipy.io.loadmat(io.BytesIO(content), variable_names=list(names))
    arrays = {name: mat[name] for name in names if name in mat}
    if not all(isinstance(array, np.ndarray) and not array.dtype.hasobject for array in arrays.values()):
        raise ValueError("cells, structures or sparse matrices, not arrays of numbers")
    if sum(array.nbytes for array in arrays.values()) > ARRAYS:
        raise ValueError(f"arrays of more than {ARRAYS:,} bytes")
    return arrays


def limit() -> None:
    """Hold this process to ``MEMORY``, where the system can, and let it crash without a trace."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    limit()
    np.savez(sys.stdout.buffer, **parsed(sys.stdin.buffer.read(), sys.argv[1:]))  # type: ignore[arg-type]
