"""Kill a run at random, again and again, and check that it loses nothing.

    python -m benchmarks.kills --kills 30 --out kills

A benchmark of eight short cells runs on Ray until it is complete, then the next one in a new folder. At a random time
one of its processes gets SIGTERM, SIGINT or SIGKILL: a worker, the raylet, the GCS server, the command, or all at
once. The same command then goes on. Checked are: files of finished cells do not change, numbers are those of an
undisturbed run bit for bit, no process and no temporary file is left over. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.core.files import UNFINISHED
from bench.experiment.cell_folder import CellFolder, RecordError, cell_folders
from tests.experiment.outcomes import differences, outcome

CELLS = 8
SETTINGS = """
model.image_size=7 model.latent_dim=3 model.encoder_channels=(4,4) model.features=8 model.decoder_channels=6
model.kernels=(5,3,3) model.skips=(3,) train.epochs=5 train.epoch_updates=20 train.batch_size=10 train.val_examples=50
evaluation.test_examples=40 evaluation.iw_samples=10 evaluation.metrics=()
""".split()
COMMAND = [sys.executable, "-m", "bench", "run", "--methods", "vae,kl_annealing,beta_vae,free_bits", "--seeds", "2"]
COMMAND += ["--no-controls", *(argument for setting in SETTINGS for argument in ("--set", setting)), "--out"]
MARK = "BENCH_KILLS"  # environment variable that every process of a run inherits
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL]
#: Victim -> what its command line holds.
PROCESSES = {"worker": "ray::", "raylet": "raylet/raylet", "gcs": "gcs_server"}
RECORDS = ("result.json", "evaluation.json", "history.jsonl", "examples.parquet", "best.pt")
TIMEOUT = 600  # of one command
GRACE = 20  # seconds until the processes of a killed run are gone


def processes(mark: str) -> dict[int, str]:
    """Return process id -> command line of the processes of a run."""
    found = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # not ours, or ended
            if folder.name.isdecimal() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                if command := (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                    found[int(folder.name)] = command
    return found


def victims(kind: str, mark: str, command: int) -> list[int]:
    """Return the processes to kill, none if there are none of this kind now."""
    running = processes(mark)
    if kind == "command":
        return [command]
    if kind == "all":
        return [*running]
    chosen = [number for number, text in running.items() if PROCESSES[kind] in text]
    return [random.choice(chosen)] if chosen else []


def finished_files(out: Path) -> dict[Path, str]:
    """Return the records of finished cells with their hashes."""
    records = {}
    for folder in cell_folders(out):
        with suppress(RecordError):
            result, evaluation = folder.result(), folder.evaluation()
            if result and result.status == "ok" and evaluation and folder.attempts().finished:
                for name in RECORDS:
                    records[folder.path / name] = hashlib.sha256((folder.path / name).read_bytes()).hexdigest()
    return records


@dataclass
class Run:
    """One command: what was killed, how it ended, and what was wrong."""

    killed: str | None
    status: int
    problems: list[str]


def run(out: Path, log: Path, kind: str | None = None, delay: float = 0) -> Run:
    """Run the command; kill a process of ``kind`` after ``delay`` seconds."""
    mark, before, problems, killed = uuid.uuid4().hex, finished_files(out), [], None
    with log.open("ab") as file:
        environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
        command = subprocess.Popen([*COMMAND, str(out)], stdout=file, stderr=file, env=environment)
    if kind:
        killed = kill(kind, random.choice(SIGNALS), delay, mark, command)
    try:
        status = command.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        problems.append("the command does not end")
        status = -1
        command.kill()
    deadline = time.monotonic() + GRACE
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    for number, text in left.items():
        problems.append(f"process left over: {text[:80]}")
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    after = finished_files(out)
    problems += [f"finished file changed: {path}" for path, value in before.items() if after.get(path) != value]
    return Run(killed, status, problems)


def kill(kind: str, number: signal.Signals, delay: float, mark: str, command: subprocess.Popen[bytes]) -> str | None:
    """Send a signal after ``delay`` seconds, or as soon as there is a process of this kind; return what was done."""
    began = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        command.wait(delay)
    while command.poll() is None:
        chosen = victims(kind, mark, command.pid)
        for victim in chosen:
            with suppress(ProcessLookupError):
                os.kill(victim, number)
        if chosen:
            return f"{kind} {number.name} after {time.monotonic() - began:.0f} s"
        time.sleep(0.2)
    return None


def check(out: Path, reference: Path) -> list[str]:
    """Compare a completed benchmark with the undisturbed one; return what differs or is left over."""
    problems = []
    for folder in cell_folders(reference):
        other = CellFolder(out / folder.path.relative_to(reference))
        try:
            problems += differences(outcome(folder), outcome(other), other.path.parent.name)[:3]
        except (AssertionError, OSError, RecordError) as error:
            problems.append(f"{other.path.relative_to(out)}: not finished: {error!r:.200}")
    patterns = ("**/.*.lock", f"**/*{UNFINISHED}", "**/*.bak-*")
    return problems + [f"left over: {path.relative_to(out)}" for pattern in patterns for path in out.glob(pattern)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("kills"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=["worker", "raylet", "gcs", "command", "all"], help="default: at random")
    args = parser.parse_args()
    random.seed(args.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup, also by commands
    args.out.mkdir(parents=True)
    reference, log = args.out / "reference", args.out / "log"
    began = time.monotonic()
    if run(reference, log).status:
        raise SystemExit(f"the undisturbed run failed: {log}")
    seconds = time.monotonic() - began
    print(f"undisturbed run: {seconds:.0f} s", flush=True)
    kills, completed, problems = 0, 0, []
    while kills < args.kills:
        out = args.out / f"benchmark-{completed}"
        kind = args.kind or random.choice([*PROCESSES, "command", "all"])
        this = run(out, log, kind, random.uniform(0.05, 0.9) * seconds)
        kills += this.killed is not None
        if this.status == 0:
            completed += 1
            this.problems += check(out, reference)
        problems += this.problems
        finished = len(finished_files(out)) // len(RECORDS)
        print(f"{kills}: {this.killed}: status {this.status}, {finished} of {CELLS} cells finished", flush=True)
        print("".join(f"   {problem}\n" for problem in this.problems), end="", flush=True)
    while (last := run(out := args.out / f"benchmark-{completed}", log)).status:
        problems += last.problems
    problems += last.problems + check(out, reference)
    print(f"{kills} kills over {completed + 1} benchmarks: {len(problems)} problems", *problems, sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
