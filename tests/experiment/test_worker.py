"""One cell from start to end: failures, retries, kills, damaged checkpoints."""

import os
import signal
from dataclasses import replace

import pytest

from bench.core.files import StorageError
from bench.data.dataset import Prepared
from bench.experiment.worker import run_cell
from bench.training import registry
from bench.training.trainer import Trainer
from tests.conftest import EVALUATION
from tests.experiment.outcomes import assert_same_outcome
from tests.experiment.processes import fork, needs_fork


def test_failed_training_is_recorded_and_retried(planned, task, monkeypatch):
    attempts = []

    def fail(self):
        attempts.append(1)
        raise RuntimeError("no luck")

    cell = planned("vae")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", fail)
        run_cell(task(cell))
    result = cell.folder.result()
    assert len(attempts) == 2 and (result.status, result.reason) == ("failed", "RuntimeError: no luck")
    assert "in fail" in result.traceback
    run_cell(task(cell))
    assert cell.folder.result().status == "ok" and cell.folder.evaluation()


def test_one_failure_costs_only_a_second_attempt(planned, task, tmp_path, monkeypatch):
    end_epoch, fail_once = Trainer.end_epoch, iter([True])

    def fail(self):
        end_epoch(self)
        if next(fail_once, False):
            raise RuntimeError("once")

    cell, undisturbed = planned("vae"), planned("vae", out=tmp_path / "undisturbed")
    run_cell(task(undisturbed))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "end_epoch", fail)
        run_cell(task(cell))
    assert cell.folder.result().attempt == 2 and cell.folder.result().training.resumes == 1
    assert_same_outcome(cell.folder, undisturbed.folder)


def test_failed_evaluation_keeps_the_training(planned, task, monkeypatch):
    cell = planned("vae")
    with monkeypatch.context() as patch:
        patch.setattr("bench.experiment.worker.evaluate", lambda *_, **__: 1 / 0)
        run_cell(task(cell))
    result = cell.folder.result()
    assert result.status == "ok" and "ZeroDivisionError" in result.failure
    stamp = (cell.folder.path / "best.pt").stat().st_mtime_ns
    run_cell(task(cell))
    assert cell.folder.evaluation() and (cell.folder.path / "best.pt").stat().st_mtime_ns == stamp
    assert cell.folder.result().failure is None


def test_force_archives_the_cell_once_per_run(planned, task):
    cell = planned("vae")
    run_cell(task(cell))
    before = cell.folder.evaluation().metrics
    forced = task(cell, force=True)
    run_cell(forced)
    run_cell(forced)
    assert cell.folder.evaluation().metrics == before
    assert len([*cell.folder.path.parent.glob("*.bak-*")]) == 1


@pytest.mark.parametrize(
    "damaged",
    [
        "last.pt",
        pytest.param("last.pt previous.pt", marks=pytest.mark.slow),
        pytest.param("best.pt", marks=pytest.mark.slow),
    ],
)
def test_damaged_checkpoints_change_no_number(planned, task, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    cell, undisturbed = planned("vae+anneal"), planned("vae+anneal", out=tmp_path / "undisturbed")
    run_cell(task(undisturbed))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry.method("vae"), "on_step_end", interrupt_at(9))
        run_cell(task(cell))
    for name in damaged.split():
        (cell.folder.path / name).write_bytes(b"torn")
    run_cell(task(cell))
    assert_same_outcome(cell.folder, undisturbed.folder)


def interrupt_at(step: int):
    def interrupt(self, ctx):
        if ctx.step == step:
            raise KeyboardInterrupt

    return interrupt


def test_changed_data_fails_the_cell(planned, task, text_prepared):
    cell = planned("vae")
    run_cell(task(cell, data=text_prepared.path))
    assert "has changed since the run was planned" in cell.folder.result().reason


def test_data_are_loaded_once_for_consecutive_cells(planned, task, monkeypatch):
    from bench.experiment import factory

    paths, read = [], Prepared.read
    monkeypatch.setattr(Prepared, "read", lambda path: paths.append(path) or read(path))
    factory._load_data.cache_clear()
    for name in ("vae", "beta_vae"):
        run_cell(task(planned(name), evaluation=replace(EVALUATION, metrics=())))
    assert len(paths) == 1


def test_a_full_disk_is_no_failure_of_the_cell(planned, task, monkeypatch):
    def full(self, name, write):
        raise StorageError(28, "No space left on device", str(self.path / name))

    cell = planned("vae")
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr("bench.experiment.cell_folder.CellFolder.write", full)
        run_cell(task(cell))
    run_cell(task(cell))
    assert cell.folder.result().attempt == 1 and cell.folder.evaluation()


@needs_fork
def test_a_killed_cell_resumes_bit_exactly(planned, task, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    cell, undisturbed = planned("aggressive"), planned("aggressive", out=tmp_path / "undisturbed")
    run_cell(task(undisturbed))
    with monkeypatch.context() as patch:
        patch.setattr(registry.method("aggressive"), "on_step_end", kill_at(6))
        assert fork(lambda: run_cell(task(cell))) == -signal.SIGKILL
    assert cell.folder.result().status == "running"
    run_cell(task(cell))
    assert cell.folder.result().training.resumes == 1
    assert_same_outcome(cell.folder, undisturbed.folder)


def kill_at(step: int):
    def kill(self, ctx):
        if ctx.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


@needs_fork
def test_a_cell_that_kills_its_process_fails(planned, task, monkeypatch):
    cell = planned("vae")
    same_run = task(cell)
    with monkeypatch.context() as patch:
        patch.setattr(registry.method("vae"), "on_step_end", kill_at(1))
        assert [fork(lambda: run_cell(same_run)) for _ in range(3)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert cell.folder.result().reason.startswith("WorkerDied: its process died 2 times")
    run_cell(same_run)
    assert cell.folder.result().status == "failed", "this run is done with the cell"
    run_cell(task(cell))
    assert cell.folder.evaluation(), "the next run tries again"
