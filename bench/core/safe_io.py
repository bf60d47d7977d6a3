"""Files that others may have made, read so that none whatever can hang, crash or fill the memory of who reads it."""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# An archive is a bomb when it unpacks to more than this, and to so many times its size. Deflate cannot do better than
# 1,032; arrays of images come to 5 to 100 times.
UNPACKED, RATIO = 256 << 20, 200


class ZipBombError(ValueError):
    """A small archive that would unpack to much."""


def open_regular_file(path: Path, most: int) -> io.BufferedReader:
    """A regular file of at most ``most`` bytes, open to be read. ``ValueError`` where it is none, ``OSError`` where it
    cannot be opened.

    It is not to be waited for: a pipe to which nobody writes would take for ever to open.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ValueError("it is a folder, a pipe or a device, not a file")
    if found.st_size > most:
        os.close(descriptor)
        raise ValueError(f"it has {found.st_size:,} bytes, more than {most:,}; make it smaller")
    return open(descriptor, "rb")


@contextmanager
def open_or_user_error(path: Path, most: int) -> Iterator[io.BufferedReader]:
    """The same within, with a ``UserError`` in place of the others."""
    try:
        file = open_regular_file(path, most)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    with file:
        yield file


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes; a ``UserError`` where it cannot be read."""
    with open_or_user_error(path, most) as file:
        try:
            return file.read(most)
        except (OSError, MemoryError) as error:
            raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not enough memory'}") from error


@contextmanager
def open_zip(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """A zip archive, open to be read; ``Bomb`` if it is one. No member gives more bytes than it declares."""
    packed = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > UNPACKED and unpacked > RATIO * packed:
            raise ZipBombError(f"{packed:,} bytes that would unpack to {unpacked:,}")
        # bzip2 and LZMA take memory and time that no declared size bounds; nobody writes such arrays or drawings.
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError("compressed by something other than deflate")
        yield archive


def read_arrays(file: IO[bytes], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, of those ``names`` the ones that are there. Never pickles.

    An exception of whatever kind where it is damaged, a bomb, or something else: zipfile, zlib and NumPy each fail in
    ways of their own.
    """
    import numpy as np

    found = {}
    with open_zip(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            with archive.open(member) as part:
                _check_size(part, member.file_size)
            with archive.open(member) as part:
                found[name] = np.lib.format.read_array(part, allow_pickle=False)
                if part.read(1):  # to the end, where the checksum is looked at
                    raise ValueError(f"more bytes than the array {name} has")
    return found


def _check_size(part: IO[bytes], declared: int) -> None:
    """``ValueError`` for an array larger than its member: the memory is taken before anything is read."""
    import numpy as np

    header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        np.lib.format.read_magic(part), np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = header(part)
    size = math.prod((*shape, dtype.itemsize))
    if not 0 <= size <= declared:
        raise ValueError(f"an array of {size:,} bytes in {declared:,}")
