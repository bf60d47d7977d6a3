"""A small benchmark in a copy of the code, run as a command that is killed, and what must be left of it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bench.experiment.cell_folder import CellFolder, cell_folders
from tests.cli.test_run import TOY

FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
ROOT = Path(__file__).parents[2]
METHODS = "vae,kl_annealing,aggressive,sa_vae(steps=2)"
CELLS = 8  # of these methods with two seeds
PRESET = TOY.replace("epochs = 3", "epochs = 8")

#: Appended to the copy of ``bench/cell.py``: tell of every training that begins and that comes out.
TELL = """

def _tell(what, task):
    with open(os.environ["TOLD"], "a") as file:
        file.write(f"{what} {task['folder']}\\n")


def train(task, _train=train):
    _tell("begun", task)
    result = _train(task)
    _tell("trained", task)
    return result
"""

#: Appended to the copy of ``bench/store.py``: the power goes at the n-th file, once in all processes of a command.
POWER = '''

class _Power:
    """``POWER``: "MOMENT NUMBER FILE" – in the middle of a file, before or after it is renamed; once, as FILE says."""

    def __init__(self):
        self.moment, number, self.gone = os.environ["POWER"].split(" ", 2)
        self.left = int(number)

    def at(self, moment):
        if moment != self.moment or os.path.exists(self.gone):
            return
        self.left -= 1
        if self.left <= 0:
            import signal

            with suppress(FileExistsError):
                os.close(os.open(self.gone, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)


if "POWER" in os.environ:
    _power, _whole_write, _whole_replace = _Power(), _ErrorTrackingFile.write, os.replace

    def _write(self, data, /):
        size = len(memoryview(data).cast("B"))
        if size > 1:
            done = _whole_write(self, memoryview(data).cast("B")[: size // 2])
            _power.at("middle")
            return done
        return _whole_write(self, data)

    def _replace(source, target):
        ours = str(source).endswith(UNFINISHED)
        if ours:
            _power.at("before")
        _whole_replace(source, target)
        if ours:
            _power.at("after")

    _ErrorTrackingFile.write, os.replace = _write, _replace
'''


@dataclass
class Ended:
    """How a command ended: its exit status and what it said."""

    status: int
    said: str


@dataclass
class Place:
    """A copy of the code with a preset of a second or a few a cell."""

    path: Path
    cache: Path
    seen: set[tuple[int, str]] = field(default_factory=set)  # every process of every command: its id, when it began

    def __post_init__(self):
        for package in ("bench", "methods"):
            shutil.copytree(ROOT / package, self.path / package, ignore=shutil.ignore_patterns("__pycache__"))
        (self.path / "bench" / "experiment" / "presets" / "quick.toml").write_text(PRESET)
        train = self.path / "bench" / "train.py"
        often = train.read_text().replace("CHECKPOINT_SECONDS = 60", "CHECKPOINT_SECONDS = 0.1")
        assert often != train.read_text()
        train.write_text(often)
        for name, code in (("cell", TELL), ("store", POWER)):
            with (self.path / "bench" / f"{name}.py").open("a") as file:
                file.write(code)
        self.told.touch()

    @property
    def told(self) -> Path:
        return self.path / "told"

    def telling(self) -> list[str]:
        return self.told.read_text().splitlines()

    def start(self, out: Path, *words: str, executor: str = "local", **environment: str) -> Command:
        command = [sys.executable, "-m", "bench", "run", "--device", "cpu", "--executor", executor, "--out", str(out)]
        if "--methods" not in words:
            words = ("--methods", METHODS, "--seeds", "2", *words)
        return Command(self, [*command, *words], environment)

    def left_running(self, patience: float) -> set[int]:
        """Processes of any command that are still there after so many seconds."""
        end = time.monotonic() + patience
        while (left := {pid for pid, began in self.seen if began_at(pid) == began}) and time.monotonic() < end:
            time.sleep(0.2)
        return left


class Command:
    def __init__(self, place: Place, command: list[str], environment: dict[str, str]):
        self.place, self.before = place, len(place.telling())
        self.output = place.path / f"output-{time.monotonic_ns()}"
        known = {"BENCH_CACHE": str(place.cache), "TOLD": str(place.told), "PYTHONPATH": str(place.path)}
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=place.path, env=os.environ | known | environment, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def await_training(self, patience: float = 90) -> bool:
        """Wait until it trains a cell; whether it does before it ends."""
        end = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < end:
            if len(self.place.telling()) > self.before:
                return True
            time.sleep(0.02)
        return False

    def tree(self) -> dict[int, str]:
        """Every process of it: its id and what it is, the command first."""
        listed = subprocess.run(["ps", "-eww", "-o", "pid,ppid,args"], capture_output=True, text=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
        tree = {self.process.pid: "command"}
        for _ in rows:
            more = {int(pid): args for pid, parent, args in rows if int(parent) in tree and int(pid) not in tree}
            if not more:
                break
            tree |= more
        self.place.seen |= {(pid, began) for pid in tree if (began := began_at(pid))}
        return tree

    def send(self, number: int, to: str | None = None) -> bool:
        """Send a signal to it, or to the newest of its processes whose command line says so; whether there is one."""
        found = [pid for pid, args in self.tree().items() if (to in args if to else pid == self.process.pid)]
        return bool(found) and signal_to(found[-1], number)

    def send_all(self, number: int) -> bool:
        return all([signal_to(pid, number) for pid in self.tree()])

    def end(self, patience: float = 240) -> Ended:
        status = self.process.wait(patience)
        return Ended(status, self.output.read_text("utf-8", "replace"))


def signal_to(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def began_at(pid: int) -> str:
    """When a process began, which with its id names it; "" if it is no more, or a zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]


# -- what is left -------------------------------------------------------------------------------------------------


STAY = ("config.json", "history.jsonl", "result.json", "evaluation.json", "examples.parquet", "arrays.npz", "best.pt")
FILES = len(STAY)  # of a finished cell


def finished(out: Path) -> dict[Path, tuple[int, str]]:
    """Every file of every cell that is trained and fully evaluated, with its time and content."""
    files = {}
    for cell in cell_folders(out):
        if is_done(cell):
            for name in STAY:
                file = cell.path / name
                files[file] = file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()
    return files


def is_done(cell: CellFolder) -> bool:
    return cell.trained() and {"refined_iw", "latent_use"} <= {*(cell.evaluation() or {}).get("groups", {})}


def numbers(out: Path) -> dict:
    """All that a benchmark found, without what is of its clocks, its process and its machine."""
    found = {}
    for cell in cell_folders(out):
        assert is_done(cell), f"{cell.path} is not done"
        result, evaluation = cell.result() or {}, cell.evaluation() or {}
        with np.load(cell.path / "arrays.npz") as arrays:
            contents = {name: (arrays[name].shape, arrays[name].dtype.str, arrays[name].tobytes()) for name in arrays}
        found[str(cell.path.relative_to(out))] = {
            "config": cell.config,
            "metrics": evaluation["metrics"],
            "references": evaluation["references"],
            "history": [{name: value for name, value in line.items() if name != "seconds"} for line in cell.history()],
            "training": {name: result[name] for name in result if name in TRAINING},
            "examples": pd.read_parquet(cell.path / "examples.parquet").to_dict("list"),
            "arrays": contents,
        }
    for file in (out / "tables").glob("*.csv"):
        table = pd.read_csv(file)
        found[file.name] = table[[name for name in table if "seconds" not in name]].to_csv()
    return found


TRAINING = (
    "status",
    "updates",
    "encoder_updates",
    "best_update",
    "stopped_by",
    "flops",
    "updates_by_kind",
    "parameters",
)


def litter(out: Path) -> list[str]:
    """Files that a run leaves behind only if it is killed, but for a report's: they go when they are old enough."""
    kinds = ("runs/**/*.unfinished", ".run-*", "**/*.lock", "**/backup-*")
    return sorted(str(path.relative_to(out)) for kind in kinds for path in out.glob(kind))


def assert_same(one: dict, other: dict) -> None:
    """Bit for bit, NaN equal to itself; says which cell and which part differ."""
    assert one.keys() == other.keys()
    for cell, parts in one.items():
        if isinstance(parts, dict):
            for name, part in parts.items():
                assert repr(part) == repr(other[cell][name]), f"{name} of {cell}"
        else:
            assert parts == other[cell], cell
