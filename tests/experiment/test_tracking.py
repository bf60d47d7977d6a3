"""Trackers get every point of a cell once, also if the run is interrupted and resumed."""

import importlib.util
import json
import os
import signal
import struct
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.errors import Stopped, UserError
from bench.experiment import tracking
from bench.experiment.session import run_tasks
from bench.experiment.task import Resources
from bench.training import registry
from bench.training.result import Validation
from tests.conftest import EVALUATION

LINE = Validation(
    phase="main", update=4, encoder_updates=0, seconds=1, train_loss=30, beta=1, lr=1e-3, selected=True, elbo=-30
)


def tensorboard_points(out: Path):
    """Return name -> [(step, value)] of all event files."""
    from tensorboardX.proto.event_pb2 import Event

    points = defaultdict(list)
    for file in sorted((out / "tensorboard").rglob("events.*")):
        content = file.read_bytes()
        while content:  # length, its checksum, an event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
            for value in event.summary.value:
                points[value.tag].append((event.step, value.simple_value))
    return points


def mlflow_points(out: Path):
    from mlflow import MlflowClient

    client = MlflowClient((out / "mlruns").as_uri())
    number = client.get_experiment_by_name(tracking.PROJECT).experiment_id
    (run,) = client.search_runs([number])
    assert run.info.run_name == "vae seed 0" and run.info.status == "FINISHED"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(metric.step, metric.value) for metric in history] for name, history in histories.items()}


def wandb_points(out: Path):
    (file,) = (out / "wandb").glob("offline-run-*/*.wandb")
    deadline, records = time.monotonic() + 60, []
    while not any(record.HasField("exit") for record in records):  # another process writes them
        assert time.monotonic() < deadline
        records = [*wandb_records(file.read_bytes())]
    points = defaultdict(list)
    for record in records:
        for item in record.history.item:
            points["/".join(item.nested_key)].append((record.history.step.num, json.loads(item.value_json)))
    return points


def wandb_records(content: bytes):
    """Yield the records of a file, which lie in blocks of 32 KiB; each follows its checksum, length and type."""
    from wandb.proto.wandb_internal_pb2 import Record

    start, block = 7, 32768
    while start + 7 <= len(content):
        _, length, kind = struct.unpack("<IHB", content[start : start + 7])
        if kind == 1:  # in one piece
            yield Record.FromString(content[start + 7 : start + 7 + length])
        start += 7 + length
        if block - start % block < 7:
            start += block - start % block


POINTS = {"tensorboard": tensorboard_points, "mlflow": mlflow_points, "wandb": wandb_points}


@pytest.mark.parametrize(
    "tracker", ["tensorboard", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mlflow", "wandb"))]
)
def test_a_resumed_run_logs_every_point_once(planned, task, tmp_path, monkeypatch, tracker):
    if importlib.util.find_spec(tracking.PACKAGES[tracker]) is None:
        pytest.skip(f"needs {tracker}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "POLL_SECONDS", 0.02)
    monkeypatch.setattr("bench.core.cancellation.POLL_SECONDS", 0)
    out, cell, messages = tmp_path / "out", planned("vae"), []
    out.mkdir()

    def run():
        basic = replace(EVALUATION, metrics=())
        run_tasks(out, [task(cell, evaluation=basic)], Resources("local"), nullcontext(), messages.append, tracker)

    def stop(self, ctx):
        if ctx.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(registry.method("vae"), "on_step_end", stop)
        run()
    if tracker != "mlflow":
        assert len(POINTS[tracker](out)["val/elbo"]) == 1, "validations are logged during training"
    run()
    assert not messages
    history, points = cell.folder.history(), POINTS[tracker](out)
    elbo = [(line.update, pytest.approx(line.metrics["elbo"])) for line in history]
    assert points["val/elbo"] == elbo and len(points["train/lr"]) == len(elbo)
    assert points["test/iw_nll"] == [(history[-1].update, pytest.approx(cell.folder.evaluation().metrics["iw_nll"]))]


def test_a_tracker_that_fails_does_not_end_the_run(planned, task, tmp_path, monkeypatch):
    def fail(out, task):
        raise ConnectionError("no server")

    monkeypatch.setitem(tracking.LOGS, "tensorboard", fail)
    ours, other, messages = planned("vae"), planned("beta_vae"), []
    for cell, run_id in ((ours, "ours"), (other, "other")):
        cell.folder.write_config(cell.config)
        cell.folder.begin_attempt(run_id)
        cell.folder.write_history([LINE])
    for tasks, count in [([task(other)], 0), ([task(other), task(ours)], 1)]:
        with tracking.tracking("tensorboard", tmp_path, tasks, "ours", messages.append):
            pass
        assert len(messages) == count, "cells of another run are left to it"
    assert messages == ["--track tensorboard stopped (ConnectionError: no server); the run goes on without it"]


def test_a_missing_package_is_an_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--track wandb needs its package: pip install .*\[wandb\]"):
        tracking.check_tracker("wandb")
