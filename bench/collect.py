"""Work on machines that do not see the output folder: an office beside it hands out cells and takes in their files.

``Office`` lives on the machine of the output folder and holds the claims of those whom it lends cells; ``work_away`` is
what a worker elsewhere does. ``bench.on_ray`` makes the one an actor and calls it from the other.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

from bench.execute import POLL_SECONDS, Work, work
from bench.store import CellFolder, claim, put_aside, replace

SYNC_SECONDS = 10.0
LEASE_SECONDS = 60.0  # without a word from a worker, after which its cell is given to another
#: What a report reads. Sent after all other files and read before them, so that none tells of what is not there.
RECORDS = ("history.jsonl", "result.json", "evaluation.json", "tries.json")
LEFT_BEHIND = ("previous.pt",)  # as large as last.pt, and needed only where that is torn

Files = Mapping[str, bytes]


@dataclass
class Loan:
    """A cell in the hands of one worker: the claim that the office holds for it, and when it was last heard of."""

    task: dict[str, Any]
    claim: ExitStack
    heard: float


class Office:
    """Hands out cells, one to a worker, and writes what comes back into their folders."""

    def __init__(self, tasks: Sequence[dict[str, Any]]):
        self.tasks, self.marker = list(tasks), Path(tasks[0]["marker"])
        self.loans: dict[int, Loan] = {}
        self.numbers = count()

    def take(self) -> tuple[int, dict[str, Any], Files] | bool:
        """A cell that nobody is at: the loan's number, its task and its files. Else whether there may be one later."""
        from bench.cell import settled

        for number, loan in list(self.loans.items()):
            if time.monotonic() - loan.heard > LEASE_SECONDS:
                self.give_back(number)
        left = bool(self.loans)
        for task in list(self.tasks) if self.going() else ():
            if settled(task):  # and so it stays
                self.tasks.remove(task)
                continue
            with ExitStack() as held:
                if held.enter_context(claim(Path(task["folder"]))) and not settled(task):
                    number = next(self.numbers)
                    files = self._files(task)
                    self.loans[number] = Loan(task, held.pop_all(), time.monotonic())
                    return number, task, files
            left = True
        return left and self.going()

    def put(self, number: int, files: Files) -> bool:
        """Store files of a cell. Whether to go on: the run does, and the cell is still lent."""
        if number not in self.loans:
            return False
        loan = self.loans[number]
        loan.heard = time.monotonic()
        for name, content in files.items():
            replace(Path(loan.task["folder"]) / Path(name).name, partial(_write, content))
        return self.going()

    def put_aside(self, number: int) -> None:
        """What is stored of a cell is of no use: its worker begins it anew."""
        if number in self.loans:
            task = self.loans[number].task
            put_aside(Path(task["folder"]))
            CellFolder(Path(task["folder"])).describe(task["config"])

    def give_back(self, number: int) -> None:
        if number in self.loans:
            self.loans.pop(number).claim.close()

    def data(self, path: str) -> tuple[bytes, bytes]:
        """A prepared data set: its arrays and its record."""
        return Path(path).read_bytes(), Path(path).with_suffix(".json").read_bytes()

    def going(self) -> bool:
        return self.marker.exists()

    def _files(self, task: dict[str, Any]) -> Files:
        folder = CellFolder(Path(task["folder"]))
        folder.describe(task["config"])
        return {file.name: file.read_bytes() for file in folder.path.iterdir() if _travels(file)}


def work_away(office: Any, tell: Callable[[Work], object] = lambda done: None) -> Work:
    """What ``execute.work`` does, in folders of this machine: cells come from ``office`` and their files go there."""
    done = Work()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        while lent := office.take():
            if lent is True:
                time.sleep(POLL_SECONDS)
                continue
            number, task, files = lent
            folder = place / f"{number}" / Path(task["folder"]).name
            for name, content in files.items():
                replace(folder / name, partial(_write, content))
            marker = place / f"{number}" / "marker"
            marker.touch()
            here = {"folder": str(folder), "marker": str(marker), "data": str(_data(office, task["data"], place))}
            with mirrored(office, number, folder, marker):
                each = work([task | here])
            office.give_back(number)
            done = Work(done.began or each.began, done.seconds + each.seconds, each.problem)
            tell(done)
            if each.problem:
                break
    return done


@contextmanager
def mirrored(office: Any, number: int, folder: Path, marker: Path) -> Iterator[None]:
    """Within, and at the end, what changes in ``folder`` goes to the office; ``marker`` is removed if that says so."""
    sent: dict[str, tuple[int, int]] = {}
    aside: set[Path] = set()
    over = threading.Event()

    def sync() -> None:
        for path in {*folder.parent.glob(f"superseded-{folder.name}-*")} - aside:
            office.put_aside(number)
            aside.add(path)
            sent.clear()
        records = {name: content for name in RECORDS if (content := _changed(folder / name, sent)) is not None}
        others = {}
        for file in [*folder.iterdir()]:
            if file.name not in RECORDS and _travels(file) and (content := _changed(file, sent)) is not None:
                others[file.name] = content
        if not office.put(number, others | records):
            marker.unlink(missing_ok=True)

    def watch() -> None:
        while not over.wait(SYNC_SECONDS):
            try:
                sync()
            except Exception:  # the office is gone, and with it the run
                marker.unlink(missing_ok=True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    sync()


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _travels(file: Path) -> bool:
    return file.is_file() and not file.name.startswith((".", "superseded-")) and file.name not in LEFT_BEHIND


def _changed(file: Path, sent: dict[str, tuple[int, int]]) -> bytes | None:
    """The content of a file that was not sent as it is."""
    try:
        about = file.stat()
        if sent.get(file.name) == (about.st_mtime_ns, about.st_size):
            return None
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    sent[file.name] = about.st_mtime_ns, about.st_size
    return content


def _data(office: Any, path: str, place: Path) -> Path:
    """The prepared data set at ``path``, fetched where this machine does not see it."""
    if Path(path).exists():
        return Path(path)
    here = place / Path(path).name
    if not here.exists():
        arrays, record = office.data(path)
        replace(here.with_suffix(".json"), partial(_write, record))
        replace(here, partial(_write, arrays))
    return here
