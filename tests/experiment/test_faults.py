"""Injected faults: each ends in a state that docs/robustness.md describes, with a line that says what is wrong, and
once it is gone the same command ends well, with the numbers of a run that nothing disturbed."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.experiment.cell_folder import cell_folders
from bench.run import main
from bench.training import registry
from bench.training.checkpoint import save_last
from tests.cli.test_run import TOY
from tests.experiment import faults
from tests.experiment.faults import (
    METHODS,
    Fault,
    Place,
    at,
    content,
    fails,
    gone,
    hook,
    move,
    raising,
    refused_write,
    stored,
    torn,
)

DISK = {
    errno.ENOSPC: "No space left on device",
    errno.EROFS: "Read-only file system",
    errno.EIO: "Input/output error",
    errno.EDQUOT: "Disk quota exceeded",
    errno.ENOENT: "No such file or directory",
}


@dataclass
class Injection:
    """A ``fault`` in a run of which one cell is finished and one is as ``start`` says: "missing", "half" trained,
    "trained" and not evaluated, or "done". The run ends with exit status ``status``, a line that matches ``line``, and
    the cell as ``end`` says, like ``start`` or "failed"."""

    name: str
    fault: Fault
    line: str
    end: str
    status: int = 1
    start: str = "missing"
    arguments: tuple[str, ...] = ()
    finished: bool = True  # whether the finished cell is still there
    fast: bool = False


def of_files() -> list[Injection]:
    """Every file of a cell, refused at the first time and later, by every kind of failure that a disk has."""
    found = []
    moments = {  # file -> the times it is written, and what the cell is then
        "config.json": (),
        "tries.json": ((1, "missing"), (2, "done")),
        "result.json": ((1, "missing"), (2, "half")),
        "last.pt": ((1, "half"), (2, "half")),
        "best.pt": ((1, "half"),),
        "history.jsonl": ((1, "half"), (3, "half")),
        "examples.parquet": ((1, "trained"),),
        "arrays.npz": ((1, "trained"),),
        "evaluation.json": ((1, "trained"), (2, "trained")),
    }
    for file, times in moments.items():
        for nth, end in times:
            for code in (errno.ENOSPC, errno.EIO):
                line = rf"a worker stopped: cannot read or write \S*/{file}: {DISK[code]}; the same command goes on"
                name = f"{DISK[code]}: {file}, time {nth}"
                ok = end == "done"
                found.append(Injection(name, refused_write(file, code, nth), line, end, 0 if ok else 1))
    for file, end in (
        ("last.pt", "half"), ("best.pt", "half"), ("history.jsonl", "half"), ("result.json", "missing"),
        ("evaluation.json", "trained"), ("arrays.npz", "trained"), ("examples.parquet", "trained"),
    ):  # fmt: skip
        for code in (errno.EROFS, errno.EDQUOT):
            line = rf"a worker stopped: cannot read or write \S*/{file}: {DISK[code]}; the same command goes on"
            found.append(Injection(f"{DISK[code]}: {file} renamed", faults.refused_name(file, code), line, end))
    for file in (r"toy-quick\.csv", r"toy-quick\.md", r"toy-quick\.tex", r"\.toy-quick\.html", r"report\.html"):
        for code in (errno.ENOSPC, errno.EROFS):
            line = rf"cannot write the report: .*{DISK[code]}"
            found.append(Injection(f"{DISK[code]}: {file}", refused_write(file, code), line, "done", 2))
    found.append(
        Injection("disk full at every file", faults.refused_file(errno.ENOSPC), "error: .*No space left", "missing", 2)
    )
    found.append(
        Injection("disk full at config.json", refused_write(r"config\.json", faults.FULL), "error: .*No space left",
                  "missing", 2)
    )  # fmt: skip
    return found


def out(place: Place) -> Path:
    return place.out


def folder(place: Place) -> Path:
    return place.folder


def data(place: Place) -> Path:
    return place.data


VANISHED = "error: --out .* has vanished: bring it back, and the same command goes on"
ENDED = "a worker stopped: cannot read or write .*: No such file or directory; the same command goes on"

VANISHING = [
    Injection("OUT moved in training", at("training", *move(out)), VANISHED, "half", 2, fast=True),
    Injection("OUT moved in evaluation", at("evaluation", *move(out)), VANISHED, "trained", 2),
    Injection("OUT moved at a checkpoint", at("a checkpoint", *move(out)), VANISHED, "half", 2),
    Injection("OUT moved at the start", at("the start of training", *move(out)), VANISHED, "half", 2),
    Injection("OUT moved before the evaluation is stored", at("storing an evaluation", *move(out)), VANISHED,
              "trained", 2),
    Injection("OUT removed in training", at("training", faults.remove(out)), VANISHED, "nothing", 2, finished=False),
    Injection("OUT removed in evaluation", at("evaluation", faults.remove(out)), VANISHED, "nothing", 2,
              finished=False),
    Injection("the cell moved in training", at("training", *move(folder)), ENDED, "half", 1),
    Injection("the cell moved in evaluation", at("evaluation", *move(folder)), ENDED, "trained", 1),
    Injection("the cell removed in training", at("training", faults.remove(folder)), ENDED, "nothing", 1),
    Injection("the cell removed in evaluation", at("evaluation", faults.remove(folder)), ENDED, "nothing", 1),
    Injection("the cell removed at a checkpoint", at("a checkpoint", faults.remove(folder)), ENDED, "nothing", 1),
    Injection("OUT moved before the report", at("report", *move(out)), "no report: no stored cells under", "done"),
    Injection("the data moved before training", at("planning", *move(data)), "failed: .*(No such file|not there)",
              "failed", 1),
    Injection("the data changed before training", raising("bench.experiment.worker._load_data", lambda: ValueError(
        "x.npz is not the data that was planned with: prepare it again")), "failed: .*prepare it again", "failed"),
]  # fmt: skip

CHECKPOINTS = [
    Injection("last.pt torn", stored(torn("last.pt")), r"beta_vae.*done", "done", 0, "half", fast=True),
    Injection("last.pt empty", stored(content("last.pt", b"")), r"beta_vae.*done", "done", 0, "half"),
    Injection("last.pt of something else", stored(content("last.pt", b"PK\3\4" * 99)), "beta_vae.*done", "done", 0,
              "half"),
    Injection("last.pt of another cell", stored(faults.state("last.pt", cell="another")), "beta_vae.*done", "done", 0,
              "half"),
    Injection("last.pt of another model", stored(faults.state("last.pt", model={"w": torch.zeros(3)})),
              "beta_vae.*done", "done", 0, "half"),
    Injection("last.pt without counters", stored(faults.state("last.pt", counters={})), "beta_vae.*done", "done", 0,
              "half"),
    Injection("last.pt gone", stored(gone("last.pt")), "beta_vae.*done", "done", 0, "half"),
    Injection("both states torn", stored(torn("last.pt", "previous.pt")), "beta_vae.*done", "done", 0, "half"),
    Injection("both states of another cell", stored(faults.state("last.pt", "previous.pt", cell="another")),
              "beta_vae.*done", "done", 0, "half"),
    Injection("both states gone", stored(gone("last.pt", "previous.pt")), "beta_vae.*done", "done", 0, "half"),
    Injection("best.pt torn in training", stored(torn("best.pt")), "beta_vae.*done", "done", 0, "half"),
    Injection("best.pt torn, not evaluated", stored(torn("best.pt")), "beta_vae.*done", "done", 0, "trained",
              fast=True),
    Injection("best.pt of another update, not evaluated", stored(faults.state("best.pt", update=1)), "beta_vae.*done",
              "done", 0, "trained"),
    Injection("best.pt gone, not evaluated", stored(gone("best.pt")),
              r"put aside and trained anew \(its evaluation.json is damaged or gone, and so are its weights\)", "done",
              0, "trained"),
    Injection("best.pt torn, all done", stored(torn("best.pt")), "2 cells, 2 done", "done", 0, "done"),
    Injection("best.pt gone, all done", stored(gone("best.pt")), "2 cells, 2 done", "done", 0, "done"),
]  # fmt: skip

DAMAGE = r"put aside and trained anew \(its result.json is damaged\)"
RECORDS = [
    *(
        Injection(f"result.json {kind}", stored(content("result.json", text)), DAMAGE, "done", 0, "done", fast=not text)
        for kind, text in (("empty", b""), ("torn", b'{"status": "o'), ("no text", b"\xff\xfe\0"), ("a list", b"[]"))
    ),
    *(
        Injection(f"evaluation.json {kind}", stored(content("evaluation.json", text)), "beta_vae.*done", "done", 0,
                  "done")
        for kind, text in (("empty", b""), ("torn", b'{"metr'), ("no text", b"\xff\xfe\0"), ("a list", b"[1]"))
    ),
    *(
        Injection(f"tries.json {kind}", stored(content("tries.json", text)), "beta_vae.*done", "done", 0, "half")
        for kind, text in (("empty", b""), ("torn", b'{"run'), ("no text", b"\xff\xfe\0"), ("a list", b"[]"))
    ),
    *(
        Injection(f"history.jsonl {kind}", stored(content("history.jsonl", text)), "beta_vae.*done", "done", 0, "half")
        for kind, text in (("empty", b""), ("torn", b'{"upd'), ("no text", b"\xff\xfe\0"), ("a list", b"[]\n"))
    ),
    *(
        Injection(f"config.json {kind}", stored(content("config.json", text)), "2 cells, 2 done", "done", 0, "done")
        for kind, text in (("empty", b""), ("torn", b'{"cell'), ("no text", b"\xff\xfe\0"))
    ),
    Injection("sweeps.json torn", stored(lambda place: (place.out / "sweeps.json").write_text("{"),
              lambda place: (place.out / "sweeps.json").unlink()), "sweeps.json is damaged: remove it", "done", 2,
              "done", arguments=("--seeds", "1")),
    Injection("a folder for result.json", stored(*faults.in_the_way("result.json")), DAMAGE, "done", 0, "done"),
    Injection("a folder for last.pt", stored(*faults.in_the_way("last.pt")), "last.pt", "any", 1, "half"),
    Injection("a loop of links for result.json",
              stored(faults.loop("result.json"),
                     lambda place: (place.folder / "result.json").unlink(missing_ok=True)),
              "error: cannot read .*Too many levels of symbolic links", "any", 2, "done"),
]  # fmt: skip

FAILURES = [
    Injection("memory short in training", at("training", fails(MemoryError("Unable to allocate memory"))),
              "beta_vae.*done", "done", 0),
    Injection("no memory for training", raising("bench.training.trainer.Trainer.end_epoch", lambda: torch.OutOfMemoryError(  # noqa: E501
        "CUDA out of memory")), "failed: .*out of memory: fewer cells side by side", "failed", fast=True),
    Injection("no memory for data", raising("bench.experiment.worker._load_data", lambda: MemoryError("Unable to allocate memory")),  # noqa: E501
              "failed: .*out of memory: fewer cells side by side", "failed"),
    Injection("no memory for the evaluation", raising("bench.experiment.worker.evaluate", lambda: MemoryError()),
              "failed: .*out of memory: fewer cells side by side", "evaluation failed"),
    Injection("an error in the evaluation", raising("bench.experiment.worker.evaluate", lambda: RuntimeError("no")),
              "failed: .*RuntimeError: no", "evaluation failed"),
    Injection("an error in training, once", at("training", fails(RuntimeError("once"))), "beta_vae.*done", "done", 0),
    Injection("an error in evaluation, once", at("evaluation", fails(RuntimeError("once"))), "1 cell in .*", "done",
              0),
    Injection("an error of many lines", raising("bench.training.trainer.Trainer.end_epoch", lambda: RuntimeError("one\ntwo")),  # noqa: E501
              "failed: beta_vae.* RuntimeError: one$", "failed"),
    Injection("NaN in the loss", hook("loss", faults.not_a_number), "failed: .*loss is not finite at update 1 of",
              "failed", fast=True),
    Injection("NaN in the rate", hook("kl_loss", faults.not_a_number), "failed: .*loss is not finite at update 1 of",
              "failed"),
    *(
        Injection(f"{name} raises", hook(name, faults.raise_), rf"failed: .*out of numbers .*hook '{name}'", "failed")
        for name in ("loss", "kl_loss", "elbo_terms", "posterior", "objective", "step", "on", "phases", "build", "param_groups",  # noqa: E501
                     "state_dict")
    ),
    *(
        Injection(f"{name} gives nothing", hook(name, lambda self, *_, **__: None), rf"failed: .*hook '{name}'",
                  "failed")
        for name in ("loss", "terms", "posterior", "step", "phases", "build", "param_groups", "state_dict")
    ),
    Injection("^C in training", at("training", fails(KeyboardInterrupt())), "interrupted: the same command goes on",
              "half", 130),
    Injection("^C in evaluation", at("evaluation", fails(KeyboardInterrupt())), "interrupted: the same command goes on",
              "trained", 130),
]  # fmt: skip

ALL = [*of_files(), *VANISHING, *CHECKPOINTS, *RECORDS, *FAILURES]


# -- the place ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stages(prepared, tmp_path_factory) -> SimpleNamespace:
    """An output folder for every state in which the second cell may be, and the numbers of both undisturbed."""
    base = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        at_home(patch, base, prepared)
        run(base / "missing", "--methods", "vae")
        shutil.copytree(base / "missing", base / "half", copy_function=shutil.copy2)
        with patch.context() as interrupted:
            interrupted.setattr("bench.training.checkpoint.save_last", partial(save_then_stop, []))
            assert run(base / "half") == 130
        shutil.copytree(base / "missing", base / "done", copy_function=shutil.copy2)
        assert run(base / "done") == 0
        shutil.copytree(base / "done", base / "trained", copy_function=shutil.copy2)
        trained = Place(base / "trained", prepared.path)
        gone("evaluation.json", "examples.parquet", "arrays.npz")(trained)
    return SimpleNamespace(base=base, numbers=numbers(base / "done"))


def save_then_stop(saved: list, folder: Path, state: dict) -> None:
    save_last(folder, state)
    saved.append(folder)
    if len(saved) == 2:
        raise KeyboardInterrupt


def at_home(patch: pytest.MonkeyPatch, place: Path, prepared: Any) -> None:
    """``quick`` is tiny, ``glyphs`` the toy data, and no figure is drawn, which takes longer than all the rest."""
    (place / "presets").mkdir()
    (place / "presets" / "quick.toml").write_text(TOY)
    patch.setattr("bench.experiment.presets.PRESETS", place / "presets")
    patch.setattr(registry, "dataset", lambda name: SimpleNamespace(prepare=lambda *_: prepared))
    patch.setenv("BENCH_CACHE", str(place.parent / "cache"))
    patch.setattr("bench.reporting.figures.draw", lambda *_: [])


@pytest.fixture
def place(stages, prepared, tmp_path, monkeypatch) -> Callable[[str], Place]:
    def make(start: str) -> Place:
        at_home(monkeypatch, tmp_path, prepared)
        shutil.copytree(stages.base / start, tmp_path / "out", copy_function=shutil.copy2)
        local = tmp_path / "data" / prepared.path.name
        shutil.copytree(prepared.path.parent, local.parent)
        mine = type(prepared).read(local)
        monkeypatch.setattr(registry, "dataset", lambda name: SimpleNamespace(prepare=lambda *_: mine))
        return Place(tmp_path / "out", local)

    return make


def run(out: Path, *arguments: str) -> int:
    return main(["--out", str(out), "--executor", "local", "--methods", METHODS, *arguments])


def numbers(out: Path) -> dict[str, Any]:
    """All numbers of all cells but for how long they took."""
    return {
        str(cell.path.relative_to(out)): (
            [{**line, "seconds": 0} for line in cell.history()],
            {key: cell.evaluation()[key] for key in ("metrics", "references")},
            {key: cell.result()[key] for key in ("updates", "best_update", "stopped_by", "flops")},
        )
        for cell in cell_folders(out)
    }


def stamps(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*"))}


def state(place: Place) -> str:
    try:
        cell = place.cell()
    except StopIteration:
        return "nothing"
    result = cell.result()
    if result is None:
        return "missing"
    if result["status"] == "running":
        return "half"
    if result["status"] == "failed":
        return "failed"
    if "evaluation_failure" in result:
        return "evaluation failed"
    return "done" if cell.evaluation() and not cell.evaluation().get("pending") else "trained"


def ended(injection: Injection, place: Place, status: int, printed: str, finished: dict) -> None:
    """Whether an injection came to its documented end."""
    assert "Traceback" not in printed, printed
    assert [line for line in printed.splitlines() if re.search(injection.line, line)], printed
    assert status == injection.status, printed
    if injection.finished:
        assert stamps(place.cell("vae").path) == finished, "a finished cell is freeze_groups"
    assert injection.end in ("any", state(place))


@pytest.mark.parametrize(
    "injection", [pytest.param(each, id=each.name, marks=() if each.fast else pytest.mark.slow) for each in ALL]
)
def test_a_fault_ends_as_documented_and_the_same_command_goes_on(injection, place, stages, capsys):
    here = place(injection.start)
    finished = stamps(here.cell("vae").path)
    with injection.fault(here):
        status = run(here.out, *injection.arguments)
    captured = capsys.readouterr()
    ended(injection, here, status, captured.out + captured.err, finished)
    assert run(here.out, *injection.arguments) == 0, capsys.readouterr()
    assert numbers(here.out) == stages.numbers
    left = [
        path for path in here.out.rglob(".*") if path.name.endswith((".lock", ".unfinished")) or "run-" in path.name
    ]
    assert not left


def test_there_are_a_hundred_injections():
    assert len(ALL) >= 100 and len({each.name for each in ALL}) == len(ALL)
