"""Runs: signals, resuming, several runs at once, leftovers of killed runs."""

import os
import signal
import time
from contextlib import nullcontext

import pytest

from bench.core.errors import Stopped, UserError
from bench.core.files import UNFINISHED, file_lock
from bench.experiment.cell_folder import STALE_SECONDS, CellFolder, cell_folders
from bench.experiment.session import remove_leftovers, run_tasks, running
from bench.experiment.task import Resources
from bench.experiment.worker import run_cell
from bench.training import registry
from bench.training.trainer import Trainer
from tests.experiment.outcomes import assert_same_outcome
from tests.experiment.processes import needs_fork, start


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def foreground(monkeypatch):
    """Handle ^C as in a terminal: a background job of a shell ignores it. Notice cancellation at every update."""
    monkeypatch.setattr("bench.core.cancellation.POLL_SECONDS", 0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(out, tasks):
    return run_tasks(out, tasks, Resources("local"), nullcontext(), print)


def leftovers(out):
    kinds = (f"**/*{UNFINISHED}", "**/.*.lock", "**/.run-*")
    return sorted(path.name for kind in kinds for path in out.glob(kind))


def test_an_interrupted_run_resumes_bit_exactly(planned, task, out, tmp_path, monkeypatch):
    cells = [planned("vae"), planned("beta_vae")]
    undisturbed = planned("beta_vae", out=tmp_path / "undisturbed")
    run_cell(task(undisturbed))

    def press(self, ctx):
        if ctx.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="1 of 2 cells are finished") as stopped:
        patch.setattr(registry.method("beta_vae"), "on_step_end", press)
        run(out, [task(cell) for cell in cells])
    assert stopped.value.signal == signal.SIGINT
    assert [planned(name).status for name in ("vae", "beta_vae")] == ["done", "incomplete"]
    assert not leftovers(out)
    run(out, [task(cells[1])])
    assert cells[1].folder.result().training.resumes == 1
    assert_same_outcome(cells[1].folder, undisturbed.folder)


def test_the_second_signal_stops_at_once(out, capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with running(out) as session:
        os.kill(os.getpid(), signal.SIGTERM)
        assert session.signal == signal.SIGTERM and not session.marker.exists()
        assert "press ^C again to stop at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == {number: signal.getsignal(number) for number in before}


def test_ignored_signals_stay_ignored(out):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running(out) as session:
            os.kill(os.getpid(), signal.SIGHUP)
            assert session.signal is None and session.marker.exists()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_removed_output_folder_ends_the_run(planned, task, out, monkeypatch):
    cell = planned("vae")

    def rename(self, ctx):
        if ctx.step == 2:
            out.rename(out.with_name("elsewhere"))

    monkeypatch.setattr(registry.method("vae"), "on_step_end", rename)
    with pytest.raises(UserError, match="was removed during the run: restore it"):
        run(out, [task(cell)])
    assert not cell.folder.path.exists()


def test_a_file_system_without_locks_is_refused(out, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(UserError, match="cannot lock files under --out") as error,
        running(out),
    ):
        pass
    assert "\n" not in str(error.value)


def test_leftovers_of_killed_runs_are_removed(out):
    folder = out / "runs" / "toy" / "toy" / "vae" / "seed-0-0123456789ab"
    folder.mkdir(parents=True)
    tables = out / "tables"
    tables.mkdir()
    old, young = (tables / f".{name}.csv{UNFINISHED}" for name in ("old", "young"))
    temporary = folder / f".last.pt.x{UNFINISHED}"
    for file in (old, young, temporary, out / ".run-dead.lock", folder.with_name(f".{folder.name}.lock")):
        file.touch()
    os.utime(old, 2 * (time.time() - 2 * STALE_SECONDS,))
    with file_lock(out / ".run-live.lock"):
        assert remove_leftovers(out) == 1
        assert {*leftovers(out)} == {young.name, ".run-live.lock"}


def test_backups_are_not_cells(planned, task, out):
    cell = planned("vae")
    run(out, [task(cell)])
    run(out, [task(cell, force=True)])
    assert [folder.path for folder in cell_folders(out)] == [cell.folder.path]
    assert len([*cell.folder.path.parent.glob("*.bak-1")]) == 1


@needs_fork
def test_two_runs_share_their_cells(planned, task, out, tmp_path, monkeypatch):
    trained, train = tmp_path / "trained", Trainer.run

    def count(self):
        with trained.open("a") as file:
            file.write(f"{self.folder.name}\n")
        return train(self)

    monkeypatch.setattr(Trainer, "run", count)
    names = [["vae", "vae+anneal"], ["vae+anneal", "beta_vae"]]
    runs = [start(lambda each=each: run(out, [task(planned(name)) for name in each])) for each in names]
    for process in runs:
        process.join(120)
    assert [process.exitcode for process in runs] == [0, 0]
    assert len(trained.read_text().split()) == len({*trained.read_text().split()}) == 3
    cells = [*cell_folders(out)]
    assert len(cells) == 3 and all(cell.evaluation() for cell in cells) and not leftovers(out)


def test_attempts_count_within_one_run(tmp_path):
    folder = CellFolder(tmp_path / "cell")
    folder.path.mkdir()
    assert [folder.begin_attempt("one"), folder.begin_attempt("one")] == [1, 2]
    assert folder.begin_attempt("two") == 1
    folder.end_attempts()
    assert folder.attempts().finished and folder.begin_attempt("two") == 1
    (folder.path / "attempts.json").write_text("{")
    assert folder.attempts().run_id == ""
