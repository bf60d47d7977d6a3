"""Standard output and error on which printing never fails, so that output does not decide how a command ends."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


@contextmanager
def output_without_errors() -> Iterator[None]:
    """Print without errors within the context: whatever the encoding, and without a reader, a terminal or a free disk.

    Characters that the encoding lacks become ``?``. What cannot be written is dropped; a line on standard error says
    so on exit, unless the reader has closed the pipe. Streams that are not files, such as those of a test, stay.
    """
    _open_standard_files()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err = _wrap(before[0], 1), _wrap(before[1], 2)
    try:
        yield
    finally:
        out.flush()
        error = getattr(getattr(getattr(out, "buffer", None), "raw", None), "error", None)
        if error and error.errno != errno.EPIPE:
            print(f"warning: standard output is incomplete: {error.strerror}", file=err)
        err.flush()
        sys.stdout, sys.stderr = before


def _open_standard_files() -> None:
    """Open those of the files 0, 1 and 2 that are closed; otherwise the next opened file becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number


def _wrap(stream: TextIO | None, number: int) -> TextIO:
    """Return a stream on the same file that raises no errors; ``number`` is its file if Python found it closed."""
    try:
        file = number if stream is None else stream.fileno()
    except (OSError, ValueError):  # not a file
        return stream  # type: ignore[return-value]
    with suppress(OSError):
        if stream is not None:
            stream.flush()
    encoding = stream.encoding if stream is not None else "utf-8"
    buffer = io.BufferedWriter(_DroppingFile(file, "w", closefd=False))
    return io.TextIOWrapper(buffer, encoding, "replace", line_buffering=True)


class _DroppingFile(io.FileIO):
    """A file that drops what cannot be written and keeps the first error."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            while (count := super().write(data)) is None:  # a pipe without blocking that is full
                select.select([], [self], [])
            return count
        except OSError as error:
            self.error = self.error or error
            return len(data)
