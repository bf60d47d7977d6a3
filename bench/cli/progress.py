"""Progress of a run, read from the cells' files: bars on a terminal, one line per event elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.evaluation.config import EvaluationConfig
from bench.experiment.cell_folder import CellFolder, RecordError

POLL_SECONDS = 0.5
LINE_SECONDS = 60  # without a terminal: interval between two lines of a running cell
WINDOW = 100  # unfinished cells polled at a time, in the order in which they start
EVALUATION_SHARE = 0.1  # of a cell's bar
#: History and metric key -> heading.
SHOWN = {"nll": "NLL", "elbo": "ELBO", "kl": "KL", "mi": "MI", "au": "AU"}


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError  # rich would exit with status 1; ``bench.cli.main`` returns 141


def make_console() -> Console:
    """Return a console on standard output that raises ``BrokenPipeError`` when its reader is gone."""
    return _Console(highlight=False, soft_wrap=True)


@dataclass(eq=False)
class CellProgress:
    """The state of one cell: ``waiting``, ``running``, ``evaluating``, ``done`` or ``failed``."""

    name: str
    folder: CellFolder
    updates: int  # planned decoder updates
    weight: float  # the cell's share of the run's work, in any unit
    evaluation: EvaluationConfig  # what must be evaluated
    state: str = "waiting"
    update: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # last validation, or test metrics once done
    reason: str = ""  # why the cell failed
    bar: TaskID | None = None
    logged: float = 0.0  # time of its last line

    def __post_init__(self) -> None:
        self.lock = self.folder.path.with_name(f".{self.folder.path.name}.lock")
        self.before = self._stamps()

    def _stamps(self) -> list[float]:
        files = [self.folder.path / name for name in ("result.json", "evaluation.json")]
        return [_modified(file) for file in files]

    def poll(self) -> None:
        """Update the state from the folder. A damaged file raises ``RecordError`` and changes nothing."""
        new_result, new_evaluation = (now != old for now, old in zip(self._stamps(), self.before, strict=True))
        result = self.folder.result() if new_result else None
        if self.lock.exists():  # a worker holds the cell
            if result and result.status == "running":
                self.state = "running"
                if history := self.folder.history():
                    self.update, self.metrics = history[-1].update, _shown(history[-1].metrics)
            elif self.folder.is_trained():
                self.state, self.update = "evaluating", self.updates
        elif result and result.failure:
            self.state, self.reason = "failed", result.failure
        elif new_evaluation and (record := self.folder.evaluation()) and not self.evaluation.missing(record):
            self.state, self.update, self.metrics = "done", self.updates, _shown(record.metrics)

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed")

    @property
    def fraction(self) -> float:
        """The completed share of the cell's work."""
        return 1.0 if self.finished else (1 - EVALUATION_SHARE) * min(1.0, self.update / self.updates)

    def numbers(self) -> str:
        return ", ".join(f"{SHOWN[key]} {round(value, 2) + 0.0:.2f}" for key, value in self.metrics.items())


class RunProgress:
    """Shows the progress of cells, given in the order in which they start, from a thread while it is entered."""

    def __init__(self, cells: Sequence[CellProgress], console: Console):
        self.cells, self.console = cells, console
        self.unfinished = list(cells)
        self.started = time.monotonic()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=3600,
        )
        self.weight = sum(cell.weight for cell in cells)
        self.total = self.bars.add_task("", total=self.weight, numbers="")

    def __enter__(self) -> RunProgress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        with suppress(BrokenPipeError), self.bars:  # the main thread meets the closed pipe when it prints
            while not self.stop.wait(POLL_SECONDS):
                self.poll(self.unfinished[:WINDOW])
            self.poll([*self.unfinished])

    def poll(self, cells: Sequence[CellProgress]) -> None:
        """Read the state of ``cells`` and show what has changed."""
        for cell in cells:
            before = cell.state
            with suppress(OSError, RecordError):  # a damaged file, or one that is just removed: keep the state
                cell.poll()
            if cell.finished:
                self.unfinished.remove(cell)
            self._show_bar(cell)
            self._log(cell, before)
        remaining = sum(cell.weight * (1 - cell.fraction) for cell in self.unfinished)
        finished = f"{len(self.cells) - len(self.unfinished)}/{len(self.cells)} cells"
        self.bars.update(self.total, description=finished, completed=self.weight - remaining)

    def _show_bar(self, cell: CellProgress) -> None:
        if cell.state != "waiting" and not cell.finished and cell.bar is None:
            cell.bar = self.bars.add_task(escape(cell.name), total=1.0, numbers="")
        if cell.bar is None:
            return
        if cell.finished:
            self.bars.remove_task(cell.bar)
            cell.bar = None
        else:
            numbers = "evaluating" if cell.state == "evaluating" else cell.numbers()
            self.bars.update(cell.bar, completed=cell.fraction, numbers=numbers)

    def _log(self, cell: CellProgress, before: str) -> None:
        """Print a line for a new state and, without a terminal, one a minute for a running cell."""
        if self.console.is_terminal and not cell.finished:
            return
        now = time.monotonic()
        if cell.state == before and (cell.state != "running" or now - cell.logged < LINE_SECONDS or not cell.update):
            return
        cell.logged = now
        texts = {"running": "started", "failed": f"failed: {cell.reason}"}
        text = texts.get(cell.state, cell.state) if cell.state != before else f"update {cell.update} of {cell.updates}"
        numbers = f" – {cell.numbers()}" if cell.metrics and cell.state != "failed" else ""
        finished = len(self.cells) - len(self.unfinished)
        line = f"[{now - self.started:6.0f} s] {cell.name}: {text}{numbers} ({finished}/{len(self.cells)})"
        self.console.print(line, markup=False)


def _modified(file: Path) -> float:
    """Return a file's time of modification, 0 if there is no file."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _shown(record: Mapping[str, object]) -> dict[str, float]:
    values = {key: record.get(key) for key in SHOWN}
    return {key: float(value) for key, value in values.items() if isinstance(value, (int, float))}
