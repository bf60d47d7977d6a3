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
- ``tries.json``       which run was at it last, how often that began it, and whether it is through with it

Files are replaced whole: written under a temporary name, flushed to disk, renamed. Whoever writes into the folder holds
its claim, a lock file beside it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.core.files import UNFINISHED, dumps, parse_json, read_json, read_text, replace
from bench.core.locks import file_lock
from bench.evaluation.record import EvaluationRecord

if TYPE_CHECKING:
    from bench.evaluation.config import EvaluationConfig
    from bench.training.result import Validation

SCHEMA_VERSION = 1


ABANDONED_SECONDS = 3600  # no file takes so long to be written


@dataclass(frozen=True)
class CellFolder:
    """The stored side of one cell."""

    path: Path

    @cached_property
    def config(self) -> dict:
        return read_json(self.path / "config.json")

    @cached_property
    def cell_id(self) -> str | None:
        """The id in the folder's name; None where that is no name of a cell."""
        named = re.fullmatch(r"seed-\d+-([0-9a-f]{12})", self.path.name)
        return named[1] if named else None

    def matches(self, record: dict) -> bool:
        """Whether a record is of this cell: one of another may have been copied here."""
        return self.cell_id in (None, record["cell_id"])

    def result(self) -> dict | None:
        return read_json(self.path / "result.json", missing_ok=True)

    def evaluation(self) -> dict | None:
        return read_json(self.path / "evaluation.json", missing_ok=True)

    def evaluation_record(self) -> EvaluationRecord | None:
        """Return the typed ``evaluation.json``, None if there is none. ``ValueError`` if it is damaged."""
        record = self.evaluation()
        return None if record is None else EvaluationRecord.model_validate(record)

    def history(self, whole: bool = False) -> list[dict]:
        """The validations so far, up to the first line that is damaged; if ``whole``, that is a ``ValueError``."""
        records = []
        text = read_text(self.path / "history.jsonl", missing_ok=True) or ""
        for line in text.removesuffix("\n").split("\n") if text else ():
            try:
                record = parse_json(line)
                if not isinstance(record, dict):
                    raise ValueError("not a record")
            except ValueError:
                if whole:
                    raise
                break
            records.append(record)
        return records

    def write_config(self, config: dict) -> None:
        """Make the folder and its ``config.json``, unless that says just this. What is said of a method may change,
        numbers stand."""
        text = dumps(config, indent=1) + "\n"
        path = self.path / "config.json"
        try:
            if read_text(path, missing_ok=True) == text:
                return
        except (OSError, ValueError):
            pass
        replace(path, lambda file: file.write(text.encode()), flush=False)  # it can be written again at any time

    def write(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Replace a file of the folder. ``StorageError`` where the folder is gone: half of one would be no cell."""
        replace(self.path / name, write, parents=False)

    def write_json(self, name: str, record: dict) -> None:
        self.write(name, lambda file: file.write((dumps(record, indent=1) + "\n").encode()))

    def write_history(self, validations: list[Validation]) -> None:
        text = "".join(dumps(line.model_dump()) + "\n" for line in validations)
        self.write("history.jsonl", lambda file: file.write(text.encode()))

    def attempts(self) -> dict:
        """Of the run that tried last: ``run``, its id; ``number``, how often it began; ``over``, whether it is through
        with the cell, for better or worse; ``oom_kills``, of which process however, before it began."""
        try:
            record = read_json(self.path / "tries.json", missing_ok=True)
        except ValueError:
            record = None
        none = {"run": "", "number": 0, "over": True, "oom_kills": 0}
        whole = isinstance(record, dict) and all(type(record.get(name)) is type(value) for name, value in none.items())
        return record if whole else none

    def begin_attempt(self, run: str) -> int:
        """Note that a run begins this cell, and say for which time."""
        tries = self.attempts()
        number = tries["number"] + 1 if tries["run"] == run and not tries["over"] else 1
        self.write_json("tries.json", {"run": run, "number": number, "over": False, "oom_kills": oom_kills()})
        return number

    def end_attempts(self) -> None:
        """Note that the run that tried last is through with this cell."""
        self.write_json("tries.json", self.attempts() | {"over": True})

    def clear(self) -> None:
        """Remove what a process that was killed left half-written."""
        for file in self.path.glob(f".*{UNFINISHED}"):
            file.unlink(missing_ok=True)

    def trained(self) -> bool:
        """Whether the cell's own training ended well."""
        result = self.result()
        return result is not None and result["status"] == "ok" and self.matches(result)

    def done(self, wanted: EvaluationConfig) -> bool:
        """Whether training ended well and the evaluation ``wanted`` is there."""
        evaluation = self.evaluation()
        if not self.trained() or evaluation is None or not self.matches(evaluation):
            return False
        return not wanted.missing(self.evaluation_record())


def cell_folders(out: Path) -> Iterator[CellFolder]:
    """Every cell stored under ``out``, in the order of their paths; what is damaged among them too."""
    for folder in sorted((Path(out) / "runs").glob("*/*/*/seed-*/")):
        yield CellFolder(folder)


def lock_cell(folder: Path, timeout: float | None = 0) -> AbstractContextManager[bool]:
    """Hold the right to write into a cell's folder; whether it is held, after ``timeout`` seconds (``locks.held``)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return file_lock(folder.with_name(f".{folder.name}.lock"), timeout)


def remove_stale_files(out: Path) -> None:
    """Remove what killed processes left under ``out``: lock files of cells that nobody holds, files half-written."""
    for left in (out / "runs").glob("*/*/*/.seed-*.lock"):
        folder = left.with_name(left.name[1 : -len(".lock")])
        with lock_cell(folder) as mine:
            if mine:
                CellFolder(folder).clear()
    for level in ("", "*/", "*/*/"):  # of reports, which nobody claims
        for file in out.glob(f"{level}.*{UNFINISHED}"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                    file.unlink()


def oom_kills() -> int:
    """How many processes the system has killed for want of memory since it started, as far as it says."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text("ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
