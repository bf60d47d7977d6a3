"""A machine that does not see the output folder: its cells are stored through the writer."""

import shutil
from dataclasses import replace

import pytest

from bench.experiment.cell_folder import CellFolder, lock_cell
from bench.experiment.worker import run_cell
from bench.experiment.writer import Writer, run_remotely
from bench.training import registry
from tests.conftest import EVALUATION
from tests.experiment.outcomes import assert_same_outcome


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(task)`` runs a task on a machine with an empty cache, and returns its report."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "there"))
    monkeypatch.setattr("bench.core.cancellation.POLL_SECONDS", 0)
    (tmp_path / "there").mkdir()

    def start(task, writer=None):
        writer = writer or Writer([task])
        report = run_remotely(task, 0, lambda method, *arguments: getattr(writer, method)(*arguments), wait=False)
        assert not any((tmp_path / "there" / "cells").glob("*")) and not writer.locks
        return report

    return start


def test_a_stopped_remote_cell_goes_on_and_has_the_same_numbers(planned, task, tmp_path, monkeypatch, run):
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    basic = replace(EVALUATION, metrics=())
    cell, local = planned("vae"), planned("vae", out=tmp_path / "local")
    run_cell(task(local, evaluation=basic))
    marker = tmp_path / "marker"
    marker.touch()

    def stop(self, ctx):
        if ctx.step == 6:
            marker.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(registry.method("vae"), "on_step_end", stop)
        run(task(cell, marker=marker, evaluation=basic))
    assert planned("vae").status == "incomplete" and (cell.folder.path / "last.pt").exists()
    report = run(task(cell, evaluation=basic))
    assert report.worker and not report.busy and not report.problem
    assert cell.folder.result().training.resumes == 1
    assert_same_outcome(cell.folder, local.folder)


@pytest.mark.slow
def test_force_archives_a_remote_cell(planned, task, run):
    cell = planned("vae")
    run(task(cell))
    metrics = cell.folder.evaluation().metrics
    (cell.folder.path / "note.bak-1").touch()
    run(task(cell, force=True))
    assert cell.folder.evaluation().metrics == metrics
    (backup,) = cell.folder.path.parent.glob("*.bak-1")
    assert (backup / "note.bak-1").exists() and (backup / "evaluation.json").exists()
    assert not (cell.folder.path / "note.bak-1").exists()


def test_a_cell_of_another_run_is_busy(planned, task, run):
    cell = planned("vae")
    with lock_cell(cell.folder.path):
        assert run(task(cell)).busy
    assert not cell.folder.path.exists()


def test_equal_cells_of_two_outputs_run_at_the_same_time(planned, task, tmp_path, run):
    basic = replace(EVALUATION, metrics=())
    first, second = (task(planned("vae", out=tmp_path / out), evaluation=basic) for out in ("one", "two"))
    writer = Writer([first, second])

    def store(cell, files, removed):
        if "best.pt" in files and not second.folder.exists():
            run_remotely(second, 1, lambda method, *arguments: getattr(writer, method)(*arguments), wait=False)
        return Writer.store(writer, cell, files, removed)

    writer.store = store
    assert not run(first, writer).problem
    assert CellFolder(first.folder).evaluation() and CellFolder(second.folder).evaluation()


def test_an_emptied_cache_removes_no_stored_file(planned, task, tmp_path, run, monkeypatch):
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    cell = planned("vae")

    def empty(self, ctx):
        if ctx.step == 6:
            shutil.rmtree(tmp_path / "there" / "cells")

    monkeypatch.setattr(registry.method("vae"), "on_step_end", empty)
    assert "No such file" in run(task(cell)).problem
    assert planned("vae").status == "incomplete" and (cell.folder.path / "last.pt").exists()


def test_only_files_of_the_cell_are_written(planned, task):
    cell = planned("vae")
    writer = Writer([task(cell)])
    for name in ("../escape", "/absolute", "a/b", ".."):
        with pytest.raises(ValueError, match="not names of files"):
            writer.store(0, {name: b""}, ())
        with pytest.raises(ValueError, match="not names of files"):
            writer.store(0, {}, [name])
    assert not cell.folder.path.parent.exists()
