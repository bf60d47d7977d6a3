"""Inputs that a reader must survive: seeded mutations of a valid file, and what is asked of the reader.

    def a_reader(folder: Path):  # at module level: it is run in a process of its own
        path = folder / "in.json"
        valid = make(path).read_bytes()

        def read(content: bytes) -> None:
            path.write_bytes(content)
            the_reader(path)

        return valid, read

    def test_it_survives(tmp_path):
        tally = survey(a_reader, FAST, tmp_path)
        assert tally.read and tally.refused

``survey(reader, count, folder, seed=0)`` gives ``read`` each of the inputs in a process of its own. It fails unless
every one is read, or refused by a ``UserError`` of one line, within ``SECONDS``; the process's memory stays below
``MEMORY``; and nothing is written outside of ``folder``. Its ``Tally`` says how many were read and refused, the
slowest, the peak of memory, and the messages.

``mutations(valid, count, seed)`` are the inputs alone: each is ``valid`` after one to three mutations of the kinds in
``KINDS`` (bits flipped, bytes replaced, cut short, a chunk taken out, put elsewhere, repeated or zeroed, extreme
numbers in the header or the trailer, other digits, noise at the end), and one in ten is another kind of file.
``mutation(valid, seed, index)`` makes just that one again. A survey begins with the reader's corner cases, ``extra``.

``FAST`` inputs are for the fast test of a reader, ``SLOW`` ones for its slow test.
"""

from __future__ import annotations

import io
import os
import random
import re
import resource
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.errors import UserError

FAST, SLOW = 50, 2000  # inputs for each reader
SECONDS = 5.0  # for any one of them
MEMORY = 1 << 30  # bytes at most


def mutations(valid: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` inputs made from ``valid``."""
    return (mutation(valid, seed, index) for index in range(count))


def mutation(valid: bytes, seed: int, index: int) -> bytes:
    """Input ``index`` of a seed."""
    rng = random.Random(f"{seed} {index}")
    if rng.random() < 0.1:
        return rng.choice(_others())
    content = bytearray(valid)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(KINDS)(content, rng)
    return bytes(content)


# ---- kinds of mutation: each changes the content in place


def flip_bits(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64)) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def replace_bytes(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 16)) if content else 0):
        content[rng.randrange(len(content))] = rng.choice((0, 1, 9, 10, 13, 32, 127, 128, 255, rng.randrange(256)))


def truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.choice((rng.randrange(len(content) + 1), max(0, len(content) - rng.randrange(1, 9)))) :]


def remove_chunk(content: bytearray, rng: random.Random) -> None:
    start, end = _chunk(content, rng)
    del content[start:end]


def splice(content: bytearray, rng: random.Random) -> None:
    start, end = _chunk(content, rng)
    chunk, at = content[start:end], rng.randrange(len(content) + 1)
    content[at : at + rng.choice((0, len(chunk)))] = chunk  # inserted, or over what is there


def repeat_chunk(content: bytearray, rng: random.Random) -> None:
    start, end = _chunk(content, rng)
    content[end:end] = content[start:end] * rng.choice((1, 2, 10, 100))


def zero_run(content: bytearray, rng: random.Random) -> None:
    start, end = _chunk(content, rng)
    content[start:end] = bytes(end - start)


def edit_header(content: bytearray, rng: random.Random) -> None:
    """An extreme number, as 1, 2, 4 or 8 bytes of either order, in the first or the last 256 bytes."""
    width = rng.choice((1, 2, 4, 8))
    if len(content) < width:
        return
    at = rng.randrange(min(256, len(content) - width + 1))
    at = rng.choice((at, len(content) - width - at))
    top = 1 << (8 * width)
    value = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1, top // 16, rng.randrange(top)))
    content[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def edit_digits(content: bytearray, rng: random.Random) -> None:
    """Another number where one is written out, as in headers of ``.npy`` and in JSON."""
    places = [at for at in range(len(content)) if 48 <= content[at] <= 57][:2000]
    if places:
        at = rng.choice(places)
        content[at : at + 1] = rng.choice((b"-1", b"0", b"9", b"99999999", b"99999999999999999999", b"1e999", b"x"))


def append_noise(content: bytearray, rng: random.Random) -> None:
    content += rng.randbytes(rng.choice((1, 16, 1000)))


KINDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    replace_bytes,
    truncate,
    remove_chunk,
    splice,
    repeat_chunk,
    zero_run,
    edit_header,
    edit_digits,
    append_noise,
)


def _chunk(content: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 4, 16, 256, 4096)))


def _others() -> list[bytes]:
    """Contents that are another kind of file altogether."""
    archive, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside.txt", b"x")
        file.writestr("readme", b"x")
    np.save(array, np.array([{"pickled": True}], object), allow_pickle=True)
    return [
        b"",
        b"\0" * 4096,
        b"\n" * 4096,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        b"NaN",
        b"null",
        b"[]",
        b"{}",
        b"<!DOCTYPE html><html><title>Log in</title></html>",
        "\ufeffthe cat\n".encode("utf-16"),
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"\x7fELF" + bytes(200),
        random.Random(0).randbytes(5000),
        archive.getvalue(),
        array.getvalue(),
    ]


# ---- what a reader may do with them


@dataclass
class Tally:
    """What became of the inputs of a survey."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds, of one input
    seconds: float = 0.0  # of all of them
    peak: int = 0  # bytes that the process had in memory at most
    messages: Counter[str] = field(default_factory=Counter)  # of the refusals, digits as 0

    def __str__(self) -> str:
        return (
            f"{self.read} read, {self.refused} refused, slowest {self.slowest:.2f} s, all {self.seconds:.0f} s, "
            f"peak {self.peak / 2**20:.0f} MiB"
        )


Reader = Callable[[Path], tuple[bytes, Callable[[bytes], object]]]


def survey(
    reader: Reader,
    count: int,
    folder: Path,
    seed: int = 0,
    extra: Sequence[bytes] = (),
    process: ProcessPoolExecutor | None = None,
) -> Tally:
    """What ``reader`` makes of ``count`` inputs, ``extra`` among them; ``AssertionError`` where it is not orderly.

    ``process``: one of ``apart()``, where surveys of a few inputs share it to save its start.
    """
    if process is None:
        with apart() as process:
            return survey(reader, count, folder, seed, extra, process)
    tally = process.submit(_survey, reader, count, folder.resolve(), seed, extra).result()
    print(f"{reader.__name__}: {tally}")
    assert tally.peak < MEMORY, str(tally)
    return tally


def apart() -> ProcessPoolExecutor:
    """A process to read in."""
    return ProcessPoolExecutor(1, get_context("spawn"))


def _survey(reader: Reader, count: int, folder: Path, seed: int, extra: Sequence[bytes]) -> Tally:
    # Not what is tested, which is the peak below: it only spares the machine when that test would fail.
    resource.setrlimit(resource.RLIMIT_AS, (16 * MEMORY, 16 * MEMORY))
    valid, read = reader(folder)
    read(valid)
    outside = _written_outside(folder)
    outside.clear()
    tally = Tally()
    inputs = chain(extra, mutations(valid, count - len(extra), seed))
    for index, content in enumerate(inputs, -len(extra)):
        what, began = f"input {index} of seed {seed}", time.monotonic()
        try:
            read(content)
            tally.read += 1
        except UserError as error:
            message = str(error)
            assert message and len(message.splitlines()) == 1, f"{what}: {message!r}"
            tally.refused += 1
            tally.messages[re.sub(r"[0-9]+", "0", message)] += 1
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        seconds = time.monotonic() - began
        assert seconds < SECONDS, f"{what}: {seconds:.1f} s"
        tally.slowest, tally.seconds = max(tally.slowest, seconds), tally.seconds + seconds
        assert not outside, f"{what}: {outside}"
    tally.peak = peak()
    return tally


def peak() -> int:
    """Bytes that this process had in memory at most. What ``getrusage`` says begins with the parent's."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


_folder: list[Path] = []  # what may be written to, since a hook cannot be taken away again
_outside: list[str] = []


def _written_outside(folder: Path) -> list[str]:
    """A list that grows whenever this process opens a file to write, or makes or renames one, outside of ``folder``."""
    if not _folder:
        sys.addaudithook(_note)
    _folder[:] = [folder]
    return _outside


def _note(event: str, arguments: tuple) -> None:
    places = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}
    if event not in places or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    path = arguments[places[event]]
    if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path) != os.devnull:
        if not os.path.realpath(os.fsdecode(path)).startswith(f"{_folder[0]}{os.sep}"):
            _outside.append(f"{event} {os.fsdecode(path)}")
