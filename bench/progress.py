"""Progress of a run, read from the cells' own files: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.config import EvaluationConfig
from bench.store import CellFolder

POLL_SECONDS = 0.5
LINE_SECONDS = 60  # without a terminal: how often a running cell says how far it is


@dataclass
class Watched:
    """One cell as the monitor sees it."""

    name: str
    folder: CellFolder
    updates: int  # planned
    weight: float  # share of the run's work, in any unit
    wanted: EvaluationConfig
    status: str = "waiting"
    last: dict = field(default_factory=dict)  # the last line of its history
    said: float = 0.0

    def __post_init__(self) -> None:
        self.before = {name: self._modified(name) for name in ("result.json", "evaluation.json")}

    def _modified(self, name: str) -> int | None:
        path = self.folder.path / name
        return path.stat().st_mtime_ns if path.exists() else None

    def _fresh(self, name: str) -> bool:
        """Whether a file was written since the watch began: what an earlier run left says nothing of this one."""
        return self._modified(name) not in (None, self.before[name])

    def look(self) -> dict:
        """Take in what the folder says now; returns the cell's result as far as this run wrote it."""
        result = (self.folder.result() or {}) if self._fresh("result.json") else {}
        status = result.get("status")
        if status == "failed" or "evaluation_failure" in result:
            self.status = "failed"
        elif self._fresh("evaluation.json") and not self.wanted.missing(evaluation := self.folder.evaluation()):
            self.status, self.last = "ok", self.last | (evaluation or {})["metrics"]
        elif status == "ok":
            self.status = "evaluating"
        elif status == "running":
            self.status = "running"
            self.last = (self.folder.history() or [{}])[-1]
        return result

    def fraction(self) -> float:
        """How much of its work is done; the evaluation is counted as a tenth."""
        if self.status in ("ok", "failed"):
            return 1.0
        return 0.9 * self.last.get("update", 0) / self.updates


class Monitor:
    """Watches cells from a thread while a run goes on; a context manager."""

    def __init__(self, cells: Sequence[Watched], console: Console):
        self.cells, self.console = cells, console
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
                    self._look()
                    live.update(self._view())
        else:
            while not self.stop.wait(POLL_SECONDS):
                self._look()
        self._look()

    def _look(self) -> None:
        for cell in self.cells:
            before = cell.status
            if before not in ("ok", "failed"):
                result = cell.look()
                self._say(cell, before, result)

    def _say(self, cell: Watched, before: str, result: dict) -> None:
        if self.console.is_terminal and cell.status not in ("ok", "failed"):
            return
        now = time.monotonic()
        if cell.status == before and (cell.status != "running" or now - cell.said < LINE_SECONDS or not cell.last):
            return
        cell.said = now
        stamp = f"[{now - self.started:6.0f} s]"
        done = sum(c.status in ("ok", "failed") for c in self.cells)
        text = {"running": "started", "ok": "done", "failed": f"failed: {reason(result)}"}.get(cell.status, cell.status)
        if cell.status == before:
            text = f"update {cell.last['update']} of {cell.updates}"
        numbers = "" if cell.status == "failed" else _numbers(cell.last)
        self.console.print(
            f"{stamp} {cell.name}: {text}{numbers} ({done}/{len(self.cells)})", markup=False, highlight=False
        )

    def _view(self) -> Group:
        total = sum(cell.weight for cell in self.cells)
        fraction = sum(cell.weight * cell.fraction() for cell in self.cells) / total
        elapsed = time.monotonic() - self.started
        left = f", about {duration(elapsed * (1 - fraction) / fraction)} left" if fraction > 0.02 else ""
        done = sum(cell.status in ("ok", "failed") for cell in self.cells)
        running = [cell for cell in self.cells if cell.status in ("running", "evaluating")]
        head = f"{done} of {len(self.cells)} cells done, {len(running)} running, {duration(elapsed)} so far{left}"
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("cell", "update", "elbo", "KL", "MI", "AU"):
            table.add_column(column, justify="left" if column == "cell" else "right")
        for cell in running:
            values = [_format(cell.last.get(key)) for key in ("elbo", "kl", "mi", "au")]
            where = f"{cell.last.get('update', 0)}/{cell.updates}" if cell.status == "running" else cell.status
            table.add_row(cell.name, where, *values)
        return Group(Text(head), table)


def reason(result: dict) -> str:
    """Why a cell is not done, in one line."""
    return result.get("reason") or result.get("evaluation_failure", {}).get("reason") or "its worker died"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _numbers(record: dict) -> str:
    shown = [
        f"{key} {_format(record[key])}" for key in ("nll", "elbo", "kl", "mi", "au") if record.get(key) is not None
    ]
    return f" – {', '.join(shown)}" if shown else ""


def _format(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
