"""A worker's record of failures in training and in evaluation."""

from bench.experiment.worker import run_cell
from bench.training.trainer import Trainer


def test_failed_training_is_recorded_and_retried(planned, task, monkeypatch):
    def fail(self):
        raise RuntimeError("no luck")

    cell = planned("vae")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", fail)
        run_cell(task(cell))
    result = cell.folder.result()
    assert (result.status, result.reason) == ("failed", "RuntimeError: no luck")
    assert "in fail" in result.traceback
    run_cell(task(cell))
    assert cell.folder.result().status == "ok" and cell.folder.evaluation()


def test_failed_evaluation_keeps_the_training(planned, task, monkeypatch):
    cell = planned("vae")
    with monkeypatch.context() as patch:
        patch.setattr("bench.experiment.worker.evaluate", lambda *_, **__: 1 / 0)
        run_cell(task(cell))
    result = cell.folder.result()
    assert result.status == "ok" and "ZeroDivisionError" in result.evaluation_failure.reason
    stamp = (cell.folder.path / "best.pt").stat().st_mtime_ns
    run_cell(task(cell))
    assert cell.folder.evaluation() and (cell.folder.path / "best.pt").stat().st_mtime_ns == stamp
