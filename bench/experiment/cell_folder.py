"""The folder of a cell, read and written without torch.

``OUT/runs/<dataset>/<preset>/<method>/seed-<n>-<cell id>/`` holds

- ``config.json``      what determines the cell, and what a report needs to know about its method and data set
- ``history.jsonl``    one line per validation
- ``result.json``      how training ended, with times, counts and provenance
- ``evaluation.json``  metrics on the test set, with the settings of the evaluation
- ``examples.parquet`` one row per test example
- ``arrays.npz``       for figures: reconstructions, samples, posterior means
- ``lag_trace.npz``    with one latent dimension: inference over training (``bench.experiment.lag_trace``)
- ``texts.json``       for text: samples from the prior, reconstructions, interpolations
- ``last.pt``, ``previous.pt``, ``best.pt``  checkpoints (``bench.training.checkpoint``)
- ``attempts.json``    the last run that worked on the cell

``bench.experiment.schema`` defines the JSON files. Files are replaced atomically. Writers hold the lock file next to
the folder (``lock_cell``).
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel

from bench.core.config import protocol_name
from bench.core.files import UNFINISHED, file_lock, read_text, replace
from bench.evaluation.record import EvaluationRecord
from bench.experiment.schema import (
    Attempts,
    CellConfig,
    CellFile,
    EvaluationFile,
    ResultRecord,
    SchemaVersionError,
    parse,
    to_json,
)
from bench.training.result import Validation

STALE_SECONDS = 3600  # age at which a temporary file of a report is left over from a killed process
PARQUET = b"PAR1"  # first and last bytes of a file
#: Characters of the folder named by an expression, which may have more than the 255 of a file name. Cell ids differ.
MAX_FOLDER_NAME = 200
FOLDER_NAME = re.compile(r"seed-\d+-([0-9a-f]{12})")

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


class RecordError(ValueError):
    """A file of a cell that cannot be read: ``<file> is damaged: <reason>``."""


@dataclass(frozen=True)
class CellFolder:
    """The stored side of one cell.

    Readers raise ``RecordError`` for a damaged file, and ``SchemaVersionError`` for one of another schema version.
    """

    path: Path

    @cached_property
    def config(self) -> CellConfig:
        config = self._read("config.json", CellConfig)
        if config is None:
            raise RecordError("config.json is missing")
        return config

    def result(self) -> ResultRecord | None:
        """Return ``result.json``, or None if it is missing."""
        return self._read("result.json", ResultRecord)

    def evaluation(self) -> EvaluationRecord | None:
        """Return the content of ``evaluation.json``, or None if it is missing."""
        file = self._read("evaluation.json", EvaluationFile)
        return file.evaluation if file else None

    def history(self) -> list[Validation]:
        """Return the validations so far."""
        read = lambda text: [parse(Validation, line) for line in text.splitlines()]  # noqa: E731
        return self._parse("history.jsonl", read) or []

    def attempts(self) -> Attempts:
        """Return ``attempts.json``; an empty record if it is missing or damaged."""
        try:
            return self._read("attempts.json", Attempts) or Attempts()
        except RecordError:
            return Attempts()

    def _read(self, name: str, kind: type[R]) -> R | None:
        record = self._parse(name, partial(parse, kind))
        match = FOLDER_NAME.fullmatch(self.path.name)
        if match and isinstance(record, CellFile) and record.cell_id != match[1]:
            raise RecordError(f"{name} is of another cell, {record.cell_id}")
        return record

    def _parse(self, name: str, parser: Callable[[str], T]) -> T | None:
        try:
            text = read_text(self.path / name, missing_ok=True)
            return None if text is None else parser(text)
        except SchemaVersionError as error:
            raise SchemaVersionError(f"{self.path / name} has {error}") from error
        except ValueError as error:
            raise RecordError(f"{name} is damaged: {error}") from error

    def write(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Replace a file atomically. ``StorageError`` if it cannot be written, or the folder is missing."""
        replace(self.path / name, write, parents=False)

    def write_record(self, name: str, record: BaseModel) -> None:
        """Replace a JSON file atomically."""
        self.write(name, lambda file: file.write(to_json(record).encode()))

    def write_config(self, config: CellConfig) -> None:
        """Create the folder and ``config.json``; an identical file is not written again."""
        text, path = to_json(config), self.path / "config.json"
        with suppress(OSError, ValueError):
            if read_text(path, missing_ok=True) == text:
                return
        replace(path, lambda file: file.write(text.encode()), flush=False)  # any run can write it again

    def write_history(self, history: Iterable[Validation]) -> None:
        text = "".join(f"{line.model_dump_json()}\n" for line in history)
        self.write("history.jsonl", lambda file: file.write(text.encode()))

    def begin_attempt(self, run_id: str) -> int:
        """Record that a run starts the cell; return which attempt of that run it is, from 1."""
        last = self.attempts()
        attempt = last.attempt + 1 if last.run_id == run_id and not last.finished else 1
        self.write_record("attempts.json", Attempts(run_id=run_id, attempt=attempt, finished=False))
        return attempt

    def end_attempts(self) -> None:
        """Record that the current run is done with the cell, successfully or not."""
        self._change_attempts(finished=True)

    def write_update(self, update: int) -> None:
        """Record the decoder updates that are trained and stored."""
        self._change_attempts(update=update)

    def _change_attempts(self, **fields: Any) -> None:
        self.write_record("attempts.json", self.attempts().model_copy(update=fields))

    def remove_temp_files(self) -> None:
        """Remove temporary files of killed processes."""
        for file in self.path.glob(f".*{UNFINISHED}"):
            file.unlink(missing_ok=True)

    def is_trained(self) -> bool:
        """Return whether training finished; False if one of its records is damaged."""
        try:
            result = self.result()
            return result is not None and result.status == "ok" and self.history() is not None
        except RecordError:
            return False

    def has_torn_arrays(self) -> bool:
        """Return whether the end of a binary file of the evaluation is lost. A missing file is not damaged."""
        examples, arrays = self.path / "examples.parquet", self.path / "arrays.npz"
        if examples.exists():
            with open(examples, "rb") as file:
                start = file.read(len(PARQUET))
                file.seek(max(0, examples.stat().st_size - len(PARQUET)))
                if not start == file.read() == PARQUET:
                    return True
        return arrays.exists() and not zipfile.is_zipfile(arrays)

    def has_weights(self) -> bool:
        """Return whether the selected weights are stored."""
        return (self.path / "best.pt").exists()


def cell_place(config: CellConfig) -> Path:
    """Return the folder of a cell relative to ``OUT/runs``."""
    slug = re.sub(r"[^\w.=+-]+", "-", config.method.expression.replace(")", ""))[:MAX_FOLDER_NAME]
    place = protocol_name(config.preset, config.model)
    return Path(config.dataset.name, place, slug, f"seed-{config.seed}-{config.cell_id}")


def cell_folders(out: Path) -> Iterator[CellFolder]:
    """Yield every cell stored under ``out``, in the order of their paths, damaged ones too."""
    for folder in sorted((Path(out) / "runs").glob("*/*/*/seed-*/")):
        if ".bak-" not in folder.name:
            yield CellFolder(folder)


def check_schema(folders: Iterable[CellFolder]) -> None:
    """Raise ``SchemaVersionError`` if a cell has another schema version."""
    for folder in folders:
        with suppress(RecordError, OSError):
            folder.config  # noqa: B018


def lock_cell(folder: Path, timeout: float | None = 0) -> AbstractContextManager[bool]:
    """Lock a cell's folder for writing; yield whether the lock was acquired within ``timeout`` seconds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return file_lock(lock_file(folder), timeout)


def lock_file(folder: Path) -> Path:
    """Return the file that exists while a process holds a cell's folder."""
    return folder.with_name(f".{folder.name}.lock")


def remove_stale_files(out: Path) -> None:
    """Remove what killed processes left under ``out``: locks that nobody holds, and temporary files."""
    for lock in (out / "runs").glob("*/*/*/.seed-*.lock"):
        folder = lock.with_name(lock.name[1 : -len(".lock")])
        with lock_cell(folder) as held:
            if held:
                CellFolder(folder).remove_temp_files()
    for level in ("", "*/", "*/*/"):  # of reports, which have no locks
        for file in out.glob(f"{level}.*{UNFINISHED}"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    file.unlink()
