"""One cell from start to end, in whatever process: train what is not trained, evaluate, store.

A task is a plain dictionary, so that any executor can carry it; all about the cell itself is its ``config.json``.
"""

from __future__ import annotations

import math
import sys
import traceback
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core import provenance
from bench.core.cancellation import when_missing
from bench.core.config import MODELS, TrainConfig, build
from bench.core.errors import UserError
from bench.core.files import StorageError, read_json, rename_to_backup
from bench.core.format import error_summary
from bench.core.safe_io import open_regular_file, read_arrays
from bench.data.dataset import Prepared
from bench.data.tensors import Data, load
from bench.evaluation.chunking import ADVICE, out_of_memory
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.evaluator import evaluate
from bench.evaluation.metrics import validate
from bench.evaluation.record import Evaluation, EvaluationRecord, SampleTexts
from bench.experiment.cell_folder import SCHEMA_VERSION, CellFolder, oom_kills
from bench.experiment.plan import FORCED, status
from bench.experiment.schema import problem
from bench.method import Method
from bench.models.compilation import compile_networks
from bench.models.vae import VAE
from bench.training import checkpoint
from bench.training.factory import build_from_config, configure_torch
from bench.training.result import TrainingResult
from bench.training.trainer import Trainer

ATTEMPTS = 2  # a failure may be the machine's: it is tried once more


class WorkerDied(Exception):
    """Whoever was at a cell died without a word."""


def is_finished(task: dict[str, Any]) -> bool:
    """Whether the run of this task has nothing left to do for its cell."""
    folder = CellFolder(Path(task["folder"]))
    tries = folder.attempts()
    if tries["run"] == task["run"] and tries["over"]:
        return True
    wanted = EvaluationConfig.build(task["evaluation"])
    return task["anew"] != FORCED and status(folder, wanted)[0] == "done"


def run_cell(task: dict[str, Any]) -> None:
    """Train and evaluate the cell of a task, as far as its folder does not hold it; the caller holds its claim.

    ``task``: ``config`` (the cell's config.json), ``folder``, ``data`` (path of the prepared arrays), ``evaluation``,
    ``threads``, ``shared`` (cells running side by side), ``gpu_share`` (fraction of a GPU's memory, or 0), ``command``,
    ``run`` (its id), ``marker`` (the file that is there as long as the run shall go on), ``anew`` (why the plan
    has it trained anew, or "").

    Failures are stored, not raised, after so many attempts, those counted that ended with the process. ``StorageError``
    where the folder cannot be written, ``Interrupted`` where the work was asked to stop.
    """
    folder, config = CellFolder(Path(task["folder"])), task["config"]
    configure_torch(task["threads"], config["device"], task["gpu_share"])
    about = {
        "provenance": {
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(config["device"]),
            "threads": task["threads"],
            "command": task["command"],
            "started": provenance.now(),
        },
        "shared": task["shared"],
    }
    forced = task["anew"] == FORCED and folder.attempts()["run"] != task["run"]
    if folder.path.exists() and (forced or status(folder, EvaluationConfig.build(task["evaluation"]))[1]):
        archive_folder(folder, config)
    folder.write_config(config)
    folder.clear()
    # Whoever was at it last may have been killed for memory: then less is decoded at a time.
    last = folder.attempts()
    memory = 0.25 if not last["over"] and last["oom_kills"] < oom_kills() else 1.0
    while (number := folder.begin_attempt(task["run"])) <= ATTEMPTS:
        try:
            attempt(task, folder, about, number, memory)
            break
        except StorageError:
            raise
        except Exception as error:
            store_failure(folder, error, about)
    else:
        if not failure(folder):
            advice = "killed, or out of memory: fewer cells side by side, by --cpus-per-cell, leave more to each"
            store_failure(folder, WorkerDied(f"its worker died {ATTEMPTS} times ({advice})"), about)
    folder.end_attempts()


def attempt(task: dict[str, Any], folder: CellFolder, about: dict[str, Any], number: int, memory: float) -> None:
    """One attempt at what is missing of a cell, the first or a later one."""
    try:
        train_and_test(task, folder, about, number, memory)
    except checkpoint.Damaged:
        archive_folder(folder, task["config"])
        train_and_test(task, folder, about, number, memory)


def archive_folder(folder: CellFolder, config: dict[str, Any]) -> None:
    """Put aside what is stored of a cell that must be trained anew; its tries go on being counted."""
    tries = folder.attempts()
    rename_to_backup(folder.path)
    folder.write_config(config)
    folder.write_json("tries.json", tries)


def train_and_test(task: dict[str, Any], folder: CellFolder, about: dict[str, Any], number: int, memory: float) -> None:
    if not folder.trained():
        store_result(folder, {"status": "running", "attempt": number} | about)
        store_result(folder, {"status": "ok", "attempt": number} | train(task).model_dump(mode="json") | about)
    test(task, about["provenance"], memory)
    clear_failure(folder)


def train(task: dict) -> TrainingResult:
    """The training part of the result; leaves the selected weights in ``best.pt``."""
    config, folder = task["config"], CellFolder(Path(task["folder"]))
    data = load_data(task)
    method, model, seed = build_from_config(config)
    settings = build(TrainConfig, config["train"], "train")
    if settings.compile:
        compile_networks(model, dynamic=data.info.modality == "text")
    trainer = Trainer(
        method,
        model,
        data,
        settings,
        seed,
        folder.path,
        validate,
        folder.write_history,
        should_stop=when_missing(Path(task["marker"])),
    )
    return trainer.run()


def test(task: dict, provenance: dict, memory: float = 1.0) -> None:
    """The evaluation of a trained cell, stored as it goes on."""
    config = task["config"]
    folder = CellFolder(Path(task["folder"]))
    evaluation = EvaluationConfig.build(task["evaluation"])
    method, model, seed = load_trained(folder, config)
    train_config = build(TrainConfig, config["train"], "train")
    stored, keep = stored_evaluation(folder), partial(store_evaluation, folder)
    evaluate(
        method,
        model,
        load_data(task),
        train_config,
        evaluation,
        seed,
        stored,
        keep,
        provenance,
        memory,
        when_missing(Path(task["marker"])),
    )


def load_trained(folder: CellFolder, config: dict) -> tuple[Method, VAE, int]:
    """``fresh`` with the weights that training selected."""
    path = folder.path / "best.pt"
    if not path.exists():
        raise UserError(f"the weights of {folder.path.name} are not there (git keeps none): train it again")
    method, model, seed = build_from_config(config)
    weights = checkpoint.load_best(folder.path, config["device"], (folder.result() or {}).get("best_update"))
    try:
        model.load_state_dict(weights["model"])
        method.load_state_dict(weights["method"])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:  # torch's and methods' own
        version = config["protocol_version"]
        raise UserError(
            f"{path} holds another model or method than this code builds (protocol {version}): train it anew"
        ) from error
    return method, model, seed


def load_data(task: dict) -> Data:
    config, data = task["config"], task["config"]["dataset"]
    sizes = build(MODELS[data["modality"]], config["model"], "model")
    return _load_data(task["data"], data["fingerprint"], sizes, config["device"])


@lru_cache(maxsize=1)  # a worker runs many cells on one data set
def _load_data(path: str, fingerprint: str, model: Any, device: str) -> Data:
    prepared = Prepared.read(Path(path))
    if prepared.info.fingerprint != fingerprint:
        raise ValueError(f"{path} is not the data that was planned with: prepare it again")
    return load(prepared, model).to(device)


def store_result(folder: CellFolder, record: dict) -> None:
    folder.write_json("result.json", {"schema_version": SCHEMA_VERSION, "cell_id": folder.config["cell_id"]} | record)


def store_failure(folder: CellFolder, error: Exception, about: dict, trace: str | None = None) -> None:
    """A failed training is a failed result; a failed evaluation is noted in the result of the training that stands."""
    said = f"{error_summary(error)}; {ADVICE}" if out_of_memory(error) else error_summary(error)
    failure = {"reason": said, "traceback": trace or traceback.format_exc()}
    if folder.trained():
        folder.write_json("result.json", (folder.result() or {}) | {"evaluation_failure": failure})
    else:
        store_result(folder, {"status": "failed"} | failure | about)


def failure(folder: CellFolder) -> bool:
    """Whether the folder says that its cell failed."""
    result = folder.result() or {}
    return result.get("status") == "failed" or "evaluation_failure" in result


def stored_evaluation(folder: CellFolder) -> Evaluation | None:
    """What is stored of an evaluation; None where there is no record.

    Of a record whose files are damaged, or are not those that it was written with, only its groups are told: it has no
    current version, so that all of it is measured anew.
    """
    try:
        record = folder.evaluation()
        if record is None:
            return None
        if wrong := problem(folder.config, None, record):
            raise ValueError(wrong)
        stored = EvaluationRecord.model_validate(record)
    except ValueError:
        rename_to_backup(folder.path / "evaluation.json")
        return None
    try:
        with open_regular_file(folder.path / "examples.parquet", sys.maxsize) as file:
            columns = pd.read_parquet(file)
        with open_regular_file(folder.path / "arrays.npz", sys.maxsize) as file:
            kept = read_arrays(file)
        texts = read_json(folder.path / "texts.json", missing_ok=True)
        samples = None if texts is None else SampleTexts.model_validate(texts)
        metrics = record["metrics"]
        one = math.isclose(columns["nll"].mean(), metrics["nll"] or math.nan, rel_tol=1e-9) or metrics["nll"] is None
        if one and len(columns) == len(kept["means"]) == metrics["n"]:
            return Evaluation(stored, {name: columns[name].to_numpy() for name in columns}, kept, samples)
    except Exception:  # damaged or gone: pyarrow, zipfile, zlib and NumPy each fail in ways of their own
        pass
    return Evaluation(stored.model_copy(update={"version": 0}))


def store_evaluation(folder: CellFolder, made: Evaluation) -> None:
    """Record last: it is what says that the evaluation is there."""
    folder.write("examples.parquet", lambda file: pd.DataFrame(made.columns).to_parquet(file, index=False))
    folder.write("arrays.npz", lambda file: np.savez_compressed(file, **made.arrays))  # type: ignore[arg-type]
    if made.texts:
        folder.write_json("texts.json", made.texts.model_dump())
    else:
        (folder.path / "texts.json").unlink(missing_ok=True)
    about = {"schema_version": SCHEMA_VERSION, "cell_id": folder.config["cell_id"]}
    folder.write_json("evaluation.json", about | made.record.model_dump())


def clear_failure(folder: CellFolder) -> None:
    """Of an evaluation that has come out after all."""
    result = folder.result() or {}
    if result.pop("evaluation_failure", None):
        folder.write_json("result.json", result)
