"""A cell's folder, read and written without torch.

``OUT/runs/<dataset>/<preset>/<method slug>/seed-<n>-<cell id>/`` holds

- ``config.json``      what determines the cell, and what a report needs to know of its method and data set
- ``history.jsonl``    one line per validation
- ``result.json``      how training ended: status ``ok``, ``failed`` or ``skipped``; clocks, counts, provenance
- ``evaluation.json``  the metrics on the test set, with the evaluation's own settings
- ``examples.parquet`` one row per test example
- ``arrays.npz``       what the report draws: reconstructions, samples, posterior means
- ``texts.json``       of text: sentences from the prior, reconstructions, interpolations
- ``last.pt``, ``previous.pt``, ``best.pt``  checkpoints, written by ``bench.checkpoint``

Files are replaced whole: written under a temporary name, flushed to disk, renamed.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.config import EvaluationConfig

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CellFolder:
    """The stored side of one cell."""

    path: Path

    @cached_property
    def config(self) -> dict:
        return read_json(self.path / "config.json")

    def result(self) -> dict | None:
        return read_json(self.path / "result.json", missing_ok=True)

    def evaluation(self) -> dict | None:
        return read_json(self.path / "evaluation.json", missing_ok=True)

    def history(self) -> list[dict]:
        """The validations so far, up to the first line that is damaged."""
        file = self.path / "history.jsonl"
        records = []
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(record, dict):
                break
            records.append(record)
        return records

    def describe(self, config: dict) -> None:
        """Write ``config.json`` unless it says just this. What is said of a method may change, numbers stand."""
        text = dumps(config, indent=1) + "\n"
        path = self.path / "config.json"
        try:
            if path.read_text("utf-8") == text:
                return
        except (OSError, ValueError):
            pass
        write_text(path, text)

    def write_json(self, name: str, record: dict) -> None:
        write_json(self.path / name, record)

    def write_history(self, records: list[dict]) -> None:
        write_text(self.path / "history.jsonl", "".join(dumps(record) + "\n" for record in records))

    def trained(self) -> bool:
        result = self.result()
        return result is not None and result["status"] == "ok"

    def done(self, wanted: EvaluationConfig) -> bool:
        """Whether training ended well and the evaluation ``wanted`` is there."""
        return self.trained() and not wanted.missing(self.evaluation())


def cell_folders(out: Path) -> Iterator[CellFolder]:
    """Every cell stored under ``out``, in the order of their paths."""
    for config in sorted((Path(out) / "runs").glob("*/*/*/seed-*/config.json")):
        yield CellFolder(config.parent)


def put_aside(folder: Path) -> None:
    """Rename a cell's folder, so that nothing of it is lost to what takes its place."""
    number = 1
    while (aside := folder.with_name(f"superseded-{folder.name}-{number}")).exists():
        number += 1
    folder.rename(aside)


def dumps(record: Any, **options: Any) -> str:
    """JSON as every file of the harness holds it: NaN and infinities as null, text as it is."""
    return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, **options)


def write_json(path: Path, record: dict) -> None:
    write_text(path, dumps(record, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    replace(path, lambda file: file.write(text.encode()))


def read_json(path: Path, missing_ok: bool = False) -> Any:
    """The content of a JSON file; None where there is none and ``missing_ok``. ``ValueError`` for a damaged one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return None
        raise


def replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a reader, or a power cut, sees the old one or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
