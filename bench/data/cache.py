"""The cache of prepared data sets."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from bench.core.errors import UserError
from bench.core.files import UNFINISHED, replace
from bench.core.locks import file_lock
from bench.data.dataset import SPLITS, DataInfo, Prepared, fingerprint

PATIENCE = 2.0  # seconds to wait for another process before saying so


def cache_dir() -> Path:
    """The folder for prepared and downloaded data: ``BENCH_CACHE``, or the user's cache folder."""
    if given := os.environ.get("BENCH_CACHE"):
        return Path(given)
    import pooch

    return Path(pooch.os_cache("posterior-collapse-bench"))


def cached(cache: Path, stem: str, build: Callable[[], tuple[dict, Mapping[str, np.ndarray]]]) -> Prepared:
    """The prepared data set ``stem`` from the cache, or built, written whole and then renamed into place.

    ``build`` returns the fields of ``DataInfo`` without sizes and fingerprint, and the arrays. Whatever
    determines the arrays belongs in ``stem``. The record is written last: without it nothing counts as cached.
    Of several processes that want it one builds, and the others wait. ``UserError`` where memory does not suffice.
    """
    path = cache / f"{stem}.npz"
    if prepared := _read_cached(path):
        return prepared
    with exclusive(path):
        if prepared := _read_cached(path):
            return prepared
        try:
            fields, arrays = build()
            sizes = {split: len(arrays[split]) for split in SPLITS}
            info = DataInfo(**fields, sizes=sizes, fingerprint=fingerprint(arrays))
            write_cache_file(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        except MemoryError as error:
            raise UserError(f"not enough memory to prepare {stem}; use a smaller data set or free some") from error
        record = json.dumps(info.to_json(), ensure_ascii=False).encode()
        write_cache_file(path.with_suffix(".json"), lambda file: file.write(record))
    return Prepared(info, path)


def find_by_fingerprint(fingerprint: str, cache: Path) -> Prepared | None:
    """The prepared data set of this fingerprint, if the cache holds it."""
    found = (_read_cached(record.with_suffix(".npz")) for record in sorted(cache.glob("*.json")))
    return next((prepared for prepared in found if prepared and prepared.info.fingerprint == fingerprint), None)


def _read_cached(path: Path) -> Prepared | None:
    """The prepared set at ``path``; None where it is not there, or its record is damaged."""
    with contextlib.suppress(UserError):
        return Prepared.read(path) if os.path.isfile(path) else None
    return None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the right to make a file of the cache, waiting for whoever has it; what the killed left is removed."""
    with _cache_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _cache_errors(path.parent):
            lock = path.with_name(f".{path.name}.lock")
            if not stack.enter_context(file_lock(lock, patience=PATIENCE)):
                print(f"waiting for another process that prepares {path.name}", file=sys.stderr)
                stack.enter_context(file_lock(lock, patience=None))
            for left in path.parent.glob(f".{glob.escape(path.stem)}.*{UNFINISHED}"):
                left.unlink(missing_ok=True)
        yield


def write_cache_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of the cache whole; a ``UserError`` where the cache cannot be written."""
    with _cache_errors(path.parent):
        replace(path, write)


@contextlib.contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    """A ``UserError`` where something within cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the data cache {cache} ({error.strerror or error}); "
            "point BENCH_CACHE at a folder with room that can be written"
        ) from error
