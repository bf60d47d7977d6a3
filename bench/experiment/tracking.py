"""Copy the metrics of a run's cells to TensorBoard, MLflow or Weights & Biases.

The cells' folders are read while they run, so that every executor and a resumed run give the same points. The packages
are imported only if they are asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bench.core.errors import UserError, error_summary
from bench.core.host import environment
from bench.experiment.cell_folder import CellFolder, RecordError
from bench.experiment.task import CellTask

POLL_SECONDS = 2.0
WINDOW = 100  # unfinished cells read at a time, in the order in which they start
PROJECT = "posterior-collapse-bench"  # of MLflow and W&B
#: Tracker -> the package that it needs.
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


class Log(Protocol):
    """Where the metrics of one cell go. A new one replaces what was logged of the cell before."""

    def add(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardLog:
    """Event files in ``OUT/tensorboard/<dataset>/<preset>/<method>/<seed and cell id>``."""

    def __init__(self, out: Path, task: CellTask):
        from tensorboardX import SummaryWriter

        folder = out / "tensorboard" / Path(*task.folder.parts[-4:])
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class MLflowLog:
    """A run at ``MLFLOW_TRACKING_URI``, or in the files of ``OUT/mlruns``."""

    def __init__(self, out: Path, task: CellTask):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        config = task.config
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or (out.resolve() / "mlruns").as_uri())
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
        for earlier in self.client.search_runs([number], f"tags.cell_id = '{config.cell_id}'"):
            self.client.delete_run(earlier.info.run_id)
        run = self.client.create_run(number, tags={"cell_id": config.cell_id}, run_name=config.name)
        self.run_id = run.info.run_id
        self.client.log_batch(self.run_id, params=[Param(key, str(value)) for key, value in settings(task).items()])

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run_id, [Metric(name, value, now, step) for name, value in metrics.items()])

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


class WandbLog:
    """A W&B run whose id is that of the cell. With ``WANDB_MODE=offline`` it is in ``OUT/wandb``."""

    def __init__(self, out: Path, task: CellTask):
        import wandb

        config = task.config
        for earlier in (out / "wandb").glob(f"offline-run-*-{config.cell_id}"):
            shutil.rmtree(earlier, ignore_errors=True)
        # A run that the server has already continues there; it ignores the steps that it knows.
        self.run = wandb.init(
            project=PROJECT,
            id=config.cell_id,
            name=config.name,
            group=config.method.expression,
            config=settings(task),
            dir=str(out),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", login_timeout=10),
        )

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


LOGS: dict[str, Callable[[Path, CellTask], Log]] = {
    "tensorboard": TensorBoardLog,
    "mlflow": MLflowLog,
    "wandb": WandbLog,
}


def settings(task: CellTask) -> dict[str, Any]:
    """Return what identifies a cell for a reader of the tracker."""
    config = task.config
    values = {"dataset": config.dataset.name, "preset": config.preset, "seed": config.seed}
    return values | {"method": config.method.expression, "cell_id": config.cell_id}


def check_tracker(name: str) -> None:
    """Raise ``UserError`` if the package of a tracker is not installed."""
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise UserError(f"--track {name} needs its package: pip install -c constraints.txt -e '.[{name}]'")


def numbers(values: Mapping[str, object], prefix: str) -> dict[str, float]:
    """Return the metrics that have a value, with ``prefix`` before their names."""
    return {f"{prefix}/{name}": float(x) for name, x in values.items() if isinstance(x, (bool, int, float))}


class TrackedCell:
    """One cell and its log, which is opened once the run ``run_id`` has metrics of the cell."""

    def __init__(self, task: CellTask, run_id: str, open_log: Callable[[CellTask], Log]):
        self.task, self.run_id, self.open_log = task, run_id, open_log
        self.log: Log | None = None
        self.validations = 0  # logged so far

    def update(self) -> bool:
        """Log what is new in the cell's folder; return whether the run is done with the cell."""
        folder = CellFolder(self.task.folder)
        attempts = folder.attempts()
        if attempts.run_id != self.run_id:  # it waits, or another run works on it
            return False
        history = folder.history()
        if not history:
            return attempts.finished
        self.log = self.log or self.open_log(self.task)
        for line in history[self.validations :]:  # a retry gives the same lines again
            training = {"loss": line.train_loss, "lr": line.lr, "beta": line.beta, "seconds": line.seconds}
            training |= {"updates": line.update, "encoder_updates": line.encoder_updates}
            self.log.add(line.update, numbers(line.metrics, "val") | numbers(training, "train"))
        self.validations = max(self.validations, len(history))
        if attempts.finished:
            if record := folder.evaluation():
                self.log.add(history[-1].update, numbers(record.metrics, "test"))
            self.close()
        return attempts.finished

    def close(self) -> None:
        if self.log:
            self.log.close()


@contextmanager
def tracking(
    tracker: str, out: Path, tasks: Sequence[CellTask], run_id: str, log: Callable[[str], object]
) -> Iterator[None]:
    """Log the cells of a run from a thread. A tracker that fails ends the tracking, not the run."""
    open_log = partial(LOGS[tracker], out)
    cells = [TrackedCell(task, run_id, open_log) for task in tasks]
    stop = threading.Event()

    def update(window: Sequence[TrackedCell]) -> None:
        for cell in window:
            with suppress(RecordError, FileNotFoundError):  # a damaged file, or one that is just renamed
                if cell.update():
                    cells.remove(cell)

    def watch() -> None:
        try:
            while not stop.wait(POLL_SECONDS):
                update(cells[:WINDOW])
            update([*cells])
            for cell in cells:
                cell.close()
        except Exception as error:  # of the tracker, whose packages raise many types
            log(f"--track {tracker} stopped ({error_summary(error)}); the run goes on without it")

    thread = threading.Thread(target=watch, daemon=True)
    importlib.import_module(PACKAGES[tracker])  # not while a cell, which restores what an import changes, runs
    with environment(MLFLOW_ALLOW_FILE_STORE="true"):
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
