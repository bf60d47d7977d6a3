"""Safe readers: regular files only, size limits, no pickles, no zip bombs."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

#: An archive that unpacks to more bytes than this, and to more than so many times its own size, is a zip bomb.
#: Arrays of images reach a ratio of 5 to 100; deflate has at most 1,032.
MAX_UNPACKED, MAX_RATIO = 256 << 20, 200


def open_regular_file(path: Path, max_bytes: int) -> io.BufferedReader:
    """Open a file for reading. Raise ``ValueError`` if it is not a regular file or larger than ``max_bytes``."""
    status = os.stat(path)  # before opening: to open a pipe without a writer would block
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"its {status.st_size:,} bytes exceed the limit of {max_bytes:,}; make it smaller")
    return open(path, "rb")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most ``max_bytes``; raise ``UserError`` if it cannot be read."""
    try:
        with open_regular_file(path, max_bytes) as file:
            return file.read(max_bytes)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_arrays(file: IO[bytes], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, only those in ``names`` if given. Pickled objects are not loaded.

    A damaged file raises any of the exceptions of zipfile, zlib and NumPy.
    """
    import numpy as np

    packed = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise ValueError(f"a zip bomb: {packed:,} bytes that unpack to {unpacked:,}")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if names is None or name in names}
