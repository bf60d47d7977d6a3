"""Progress of a run, read from the cells' own files: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.core.format import duration
from bench.evaluation.config import EvaluationConfig
from bench.experiment.cell_folder import CellFolder
from bench.experiment.schema import ResultRecord

POLL_SECONDS = 0.5
LINE_SECONDS = 60  # without a terminal: how often a running cell says how far it is
POLLED_FIRST, POLLED_IN_TURN = (
    50,
    50,
)  # of the cells that wait: how many next in line, and how many others, are looked at in a poll

FILES = ("result.json", "evaluation.json", "history.jsonl", "attempts.json")
SHOWN = ("update", "nll", "elbo", "kl", "mi", "au")


@dataclass(eq=False)
class CellStatus:
    """One cell as the monitor sees it."""

    name: str
    folder: CellFolder
    updates: int  # planned
    weight: float  # share of the run's work, in any unit
    wanted: EvaluationConfig
    status: str = "waiting"
    last: dict = field(default_factory=dict)  # the numbers of its last validation, or of its evaluation
    result: ResultRecord | None = None  # as far as this run wrote it
    said: float = 0.0

    def __post_init__(self) -> None:
        self.before = self.seen = self._versions()

    def _versions(self) -> tuple[tuple[int, int] | None, ...]:
        """What tells one version of each file from another, None where there is none."""
        return tuple(_version(f"{self.folder.path}/{name}") for name in FILES)

    def poll(self) -> None:
        """Take in what the folder says now. Damaged and foreign files raise whatever they raise, and change nothing."""
        if (now := self._versions()) == self.seen:
            return
        # What an earlier run left says nothing of this one.
        new_result, new_evaluation, _, new_tries = (
            each not in (None, before) for each, before in zip(now, self.before, strict=True)
        )
        result = self.folder.result() if new_result else None
        status, state, last = result.status if result else "", self.status, self.last
        if result and result.failure:
            if not new_tries or self.folder.attempts().finished:  # else it is tried once more
                state = "failed"
        elif new_evaluation and (evaluation := self.folder.evaluation()) and not self.wanted.missing(evaluation):
            state, last = "ok", last | _numbers(evaluation.metrics)
        elif status == "ok":
            state = "evaluating"
        elif status == "running":
            state, last = "running", self._last_validation()
        self.seen, self.result, self.status, self.last = now, result, state, last

    def _last_validation(self) -> dict[str, float]:
        history = self.folder.history()
        return _numbers(history[-1].model_dump()) if history else {}

    def fraction(self) -> float:
        """How much of its work is done; the evaluation is counted as a tenth."""
        if self.over:
            return 1.0
        return 0.9 * self.last.get("update", 0) / self.updates

    @property
    def over(self) -> bool:
        return self.status in ("ok", "failed")


class Output(Console):
    """Standard output for as long as it is there: once its reader, terminal or disk is gone, a run goes on silently."""

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)  # where rich writes
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError, ValueError):  # standard output is no file of the system
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # what is in its buffer goes there at the end
            os.close(nowhere)


class Monitor:
    """Watches cells from a thread while a run goes on; a context manager.

    ``cells`` are in the order in which they are likely to begin: of thousands that wait, the first are looked at often.
    """

    def __init__(self, cells: Sequence[CellStatus], console: Console):
        self.cells, self.console = cells, console
        self.open = list(cells)  # those not over when last looked at
        self.over = 0
        self.turn = 0  # where among those that wait the next look at some of them begins
        self.started = time.monotonic()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Monitor:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        if self.console.is_terminal:
            with Live(self._view(), console=self.console, refresh_per_second=2, transient=True) as live:
                while not self.stop.wait(POLL_SECONDS):
                    self._poll(self._cells_to_poll())
                    live.update(self._view())
        else:
            while not self.stop.wait(POLL_SECONDS):
                self._poll(self._cells_to_poll())
        self._poll([*self.open])

    def _cells_to_poll(self) -> list[CellStatus]:
        """The cells to look at now: all that have begun, those next in line, and some of the others by turns."""
        begun = [cell for cell in self.open if cell.status != "waiting"]
        waiting = [cell for cell in self.open if cell.status == "waiting"]
        later = waiting[POLLED_FIRST:]
        self.turn = 0 if self.turn >= len(later) else self.turn
        those = [*islice(later, self.turn, self.turn + POLLED_IN_TURN)]
        self.turn += POLLED_IN_TURN
        return [*begun, *waiting[:POLLED_FIRST], *those]

    def _poll(self, cells: Sequence[CellStatus]) -> None:
        for cell in cells:
            before = cell.status
            with suppress(Exception):  # damaged, foreign or vanished files: no news
                cell.poll()
            self.over += cell.over
            self._log(cell, before)
        self.open = [cell for cell in self.open if not cell.over]

    def _log(self, cell: CellStatus, before: str) -> None:
        if self.console.is_terminal and not cell.over:
            return
        now = time.monotonic()
        if cell.status == before and (cell.status != "running" or now - cell.said < LINE_SECONDS or not cell.last):
            return
        cell.said = now
        stamp = f"[{now - self.started:6.0f} s]"
        texts = {
            "running": "started",
            "ok": "done",
            "failed": f"failed: {cell.result and cell.result.failure}",
        }
        text = texts.get(cell.status, cell.status)
        if cell.status == before:
            text = f"update {cell.last.get('update', 0)} of {cell.updates}"
        numbers = "" if cell.status == "failed" else _said(cell.last)
        line = f"{stamp} {cell.name}: {text}{numbers} ({self.over}/{len(self.cells)})"
        self.console.print(line, markup=False, highlight=False)

    def _view(self) -> Group:
        total = sum(cell.weight for cell in self.cells)
        fraction = 1 - sum(cell.weight * (1 - cell.fraction()) for cell in self.open) / total
        elapsed = time.monotonic() - self.started
        left = f", about {duration(elapsed * (1 - fraction) / fraction)} left" if fraction > 0.02 else ""
        running = [cell for cell in self.open if cell.status in ("running", "evaluating")]
        done = f"{self.over} of {len(self.cells)} cells done"
        head = f"{done}, {len(running)} running, {duration(elapsed)} so far{left}"
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("cell", "update", "elbo", "KL", "MI", "AU"):
            table.add_column(column, justify="left" if column == "cell" else "right")
        for cell in running:
            values = [_format(cell.last.get(key)) for key in ("elbo", "kl", "mi", "au")]
            where = f"{cell.last.get('update', 0)}/{cell.updates}" if cell.status == "running" else cell.status
            table.add_row(cell.name, where, *values)
        return Group(Text(head), table)


def _version(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What is shown of a record, as far as it is a number."""
    return {key: record[key] for key in SHOWN if isinstance(record.get(key), (int, float))}


def _said(numbers: Mapping[str, float]) -> str:
    shown = [f"{key} {_format(numbers[key])}" for key in SHOWN[1:] if key in numbers]
    return f" – {', '.join(shown)}" if shown else ""


def _format(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
