"""Run one cell from start to end: train it, evaluate it, store both."""

from __future__ import annotations

import os
import socket
import time
import traceback
from dataclasses import replace
from functools import partial

from bench.core.cancellation import Interrupted
from bench.core.errors import error_summary
from bench.core.files import StorageError, rename_to_backup
from bench.core.provenance import Provenance
from bench.evaluation.chunking import ADVICE, out_of_memory
from bench.evaluation.evaluator import evaluate
from bench.evaluation.metrics import validate
from bench.experiment.cell_folder import CellFolder, lock_cell
from bench.experiment.factory import build_from_config, code_digests, load_data, load_trained
from bench.experiment.lag_trace import EXAMPLES, LagTracer
from bench.experiment.plan import CellState, cell_state
from bench.experiment.schema import CellConfig, Failure, ResultRecord, Status
from bench.experiment.stored_evaluation import load_evaluation, store_evaluation
from bench.experiment.task import CellTask, TaskReport
from bench.models.compilation import compile_networks
from bench.models.vae import reparametrize_prior
from bench.training import checkpoint
from bench.training.result import TrainingResult, Validation
from bench.training.torch_setup import gpu_name, training_settings
from bench.training.trainer import Trainer

POLL_SECONDS = 0.5
ATTEMPTS = 2  # of one run, because a failure may be the machine's


class WorkerDied(Exception):
    """The process that ran a cell ended without an error message."""


def run_task(task: CellTask, wait: bool = False) -> TaskReport:
    """Run one task in this process; with ``wait``, wait until no other run holds the cell."""
    report = TaskReport(worker=f"{socket.gethostname()}:{os.getpid()}", started=time.time())
    problem, began = "", time.perf_counter()
    try:
        while not task.cancelled:
            with lock_cell(task.folder, POLL_SECONDS if wait else 0) as held:
                if held:
                    began = time.perf_counter()
                    run_cell(task)
                    break
                if not wait:
                    return replace(report, busy=True)
    except Interrupted:
        pass
    except OSError as error:
        problem = f"cannot read or write {error.filename or 'files'}: {error.strerror or error}"
    except Exception as error:  # of the machine; errors of the cell are stored in its folder
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return replace(report, seconds=time.perf_counter() - began, problem=problem)


def run_cell(task: CellTask) -> None:
    """Train and evaluate a cell as far as its folder does not hold the results; the caller holds its lock.

    A failure is stored in ``result.json`` after ``ATTEMPTS`` attempts of this run, those whose process died too.
    Raise ``StorageError`` if the folder cannot be written, and ``Interrupted`` if the run was cancelled.
    """
    folder = CellFolder(task.folder)
    last = folder.attempts()
    started = last.run_id == task.run_id
    if started and last.finished:
        return
    state = cell_state(folder, task.evaluation, task.force and not started)
    if state.status is Status.DONE:
        return
    resources = task.resources
    with training_settings(resources.cpus_per_cell, task.config.device, resources.gpus_per_cell):
        _run_attempts(task, folder, state)


def _run_attempts(task: CellTask, folder: CellFolder, state: CellState) -> None:
    """Do what is missing of the cell, whose folder has this state."""
    cell_id = task.config.cell_id
    if state.retrain_reason and folder.path.exists() and task.training:
        archive_folder(folder, task.config)
    folder.write_config(task.config)
    folder.remove_temp_files()
    provenance = Provenance.collect(gpu_name(task.config.device), task.resources.cpus_per_cell, task.command)
    while (attempt := folder.begin_attempt(task.run_id)) <= ATTEMPTS:
        shared = task.cells_per_device
        code = code_digests(task.config)
        result = ResultRecord(
            cell_id=cell_id, attempt=attempt, provenance=provenance, code=code, cells_per_device=shared
        )
        try:
            train_and_evaluate(task, folder, result)
            break
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, checkpoint.DamagedCheckpoint) and task.training:  # it cannot continue from there
                archive_folder(folder, task.config)
            store_failure(folder, error, result)
    else:
        last_result = folder.result()
        if last_result is None or not last_result.failure:
            reason = f"its process died {ATTEMPTS} times (killed, or out of memory: run fewer cells at a time)"
            store_failure(folder, WorkerDied(reason), last_result or ResultRecord(cell_id=cell_id))
    folder.end_attempts()


def archive_folder(folder: CellFolder, config: CellConfig) -> None:
    """Rename the folder to a backup and start a new one; attempts are still counted."""
    attempts = folder.attempts()
    rename_to_backup(folder.path)
    folder.write_config(config)
    folder.write_record("attempts.json", attempts)


def train_and_evaluate(task: CellTask, folder: CellFolder, result: ResultRecord) -> None:
    """Do what is missing of training and evaluation; ``result`` is the record of training so far."""
    if not folder.is_trained():
        if not task.training:
            raise checkpoint.DamagedCheckpoint("the cell is not trained")
        folder.write_record("result.json", result)
        training = train(task, folder)
        folder.write_record("result.json", result.model_copy(update={"status": "ok", "training": training}))
    method, model, seed = load_trained(folder, task.config)
    data, config = load_data(task.config, task.data), task.config.train
    stored, save = load_evaluation(folder), partial(store_evaluation, folder)
    evaluate(method, model, data, config, task.evaluation, seed, stored, save, result.provenance, task.should_stop())
    trained = folder.result()
    if trained and trained.evaluation_failure:  # of an earlier attempt
        folder.write_record("result.json", trained.model_copy(update={"evaluation_failure": None}))


def train(task: CellTask, folder: CellFolder) -> TrainingResult:
    """Train the cell from its last checkpoint, if there is one, and leave the selected weights in ``best.pt``."""
    data, config = load_data(task.config, task.data), task.config.scaled_train
    method, model, seed = build_from_config(task.config)
    if config.compile:
        compile_networks(model, dynamic=data.info.modality == "text")
    tracer = None
    if model.latent_dim == 1 and reparametrize_prior(model) is model:
        tracer = LagTracer(folder, method, model, data, config, seed, EXAMPLES)

    def report(history: list[Validation], update: int) -> None:
        folder.write_history(history)
        folder.write_update(update)

    trainer = Trainer(method, model, data, config, seed, folder.path, validate, report, tracer, task.should_stop())
    result = trainer.run()
    if tracer:  # training may have ended before its budget, not at a planned stage
        tracer.trace(result.updates)
    return result


def store_failure(folder: CellFolder, error: Exception, result: ResultRecord) -> None:
    """Store why training failed, or in the result of a trained cell why its evaluation failed."""
    reason = error_summary(error) + (f"; {ADVICE}" if out_of_memory(error) else "")
    failure = Failure(reason=reason, traceback="".join(traceback.format_exception(error)))
    if folder.is_trained() and (trained := folder.result()):
        result = trained.model_copy(update={"evaluation_failure": failure})
    else:
        result = result.model_copy(update={"status": "failed", **dict(failure)})
    folder.write_record("result.json", result)
