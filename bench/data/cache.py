"""Cache of downloaded files and prepared data sets."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.core.files import UNFINISHED, StorageError, expand_user, file_lock, replace, write_json
from bench.data.dataset import SPLITS, DataInfo, Prepared, fingerprint

MESSAGE_AFTER = 2.0  #: Seconds of waiting for another process before a message says so.


def cache_dir() -> Path:
    """Return the cache folder: ``BENCH_CACHE``, or the user's cache folder; ``UserError`` without a home folder."""
    if folder := os.environ.get("BENCH_CACHE"):
        return expand_user(folder)
    import pooch

    try:
        path = Path(pooch.os_cache("posterior-collapse-bench"))
    except (RuntimeError, LookupError, OSError):  # of different versions of platformdirs
        path = Path()
    if not path.is_absolute():
        raise UserError("this user has no home folder for the data cache: set BENCH_CACHE to a writable folder")
    return path


def cached(cache: Path, stem: str, build: Callable[[], tuple[DataInfo, Mapping[str, np.ndarray]]]) -> Prepared:
    """Return the data set ``stem`` from the cache; build and store it first if it is missing.

    ``build`` returns the description, without sizes and fingerprint, and the arrays. ``stem`` must change with
    everything that determines the arrays. Only one process builds, others wait for it. Raise ``UserError`` if there is
    not enough memory or the cache is not writable.
    """
    path = cache / f"{stem}.npz"
    if prepared := Prepared.read(path):
        return prepared
    with exclusive(path):
        if prepared := Prepared.read(path):
            return prepared
        try:
            info, arrays = build()
            sizes = {split: len(arrays[split]) for split in SPLITS}
            if not all(sizes.values()):
                raise UserError(f"{stem} has the sizes {sizes}; every split needs at least one example")
            notes = (*info.notes, *duplicate_notes(arrays))
            info = dataclasses.replace(info, sizes=sizes, fingerprint=fingerprint(arrays), notes=notes)
            replace(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
            write_json(path.with_suffix(".json"), dataclasses.asdict(info))  # last: it marks the set as complete
        except MemoryError as error:
            raise UserError(f"not enough memory to prepare {stem}; use a smaller data set or free some") from error
    return Prepared(info, path)


def duplicate_notes(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return a footnote with the numbers of validation and test examples that are equal to a training example."""
    train = {hash(row.tobytes()) for row in arrays["train"]}
    shares = []
    for split, title in (("val", "validation"), ("test", "test")):
        if count := sum(hash(row.tobytes()) in train for row in arrays[split]):
            shares.append(f"{count:,} of {len(arrays[split]):,} {title} examples")
    return [f"{' and '.join(shares)} also occur in train."] if shares else []


def find_by_fingerprint(fingerprint: str, cache: Path) -> Prepared | None:
    """Return the data set with this fingerprint, or None if the cache does not have it."""
    for record in sorted(cache.glob("*.json")):
        prepared = Prepared.read(record.with_suffix(".npz"))
        if prepared and prepared.info.fingerprint == fingerprint:
            return prepared
    return None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Lock a file of the cache, waiting for other processes, and remove what killed ones left unfinished.

    A ``StorageError`` in the block becomes a ``UserError`` about the cache folder.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(file_lock(lock, timeout=MESSAGE_AFTER)):
                print(f"waiting for another process that prepares {path.name}", file=sys.stderr)
                stack.enter_context(file_lock(lock, timeout=None))
            for file in path.parent.glob(f".{glob.escape(path.stem)}.*{UNFINISHED}"):
                file.unlink(missing_ok=True)
            yield
    except StorageError as error:
        raise UserError(
            f"cannot write to the data cache {path.parent} ({error.strerror or error}); "
            "set BENCH_CACHE to a writable folder with free space"
        ) from error
