"""Run tasks on Ray, one Tune trial per cell. The only module that imports ray."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.core.cancellation import SIGNALS, signal_handlers
from bench.core.errors import UserError, error_summary
from bench.core.host import unchanged_process
from bench.core.output import output_without_errors
from bench.core.provenance import cores
from bench.experiment.task import CellTask, Resources, TaskReport
from bench.experiment.worker import run_task
from bench.experiment.writer import Call, Writer, run_remotely

#: While ray is imported and used: no usage reports, no messages, log files or signal handlers of its own, workers stay
#: in this directory, and the memory monitor kills no worker.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # until this process gives up if Ray itself is killed
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
if os.path.expanduser("~") == "~":  # a user without a home folder, whom Ray does not expect
    ENVIRONMENT["HOME"] = tempfile.gettempdir()

with unchanged_process(**ENVIRONMENT):
    import ray
    from ray import tune
    from ray._raylet import setproctitle  # type: ignore[attr-defined]
    from ray.job_config import JobConfig
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

RETRIES = 2  # of a trial whose process died; the last one stores the failure
OBJECT_STORE_BYTES = 100 * 2**20


class CellTrial(tune.Trainable):
    """One cell as a trial. The process is reused for the next cell."""

    def setup(
        self, config: dict[str, Any], tasks: Sequence[CellTask] = (), wait: bool = False, writer: Call | None = None
    ) -> None:
        self.tasks, self.wait, self.writer = tasks, wait, writer

    def step(self) -> dict[str, Any]:
        setproctitle(f"ray::{self.trial_name}")  # shown by the dashboard and ps until the step ends
        with output_without_errors():
            return {"report": asdict(self._run(self.config["cell"])), "done": True}

    def _run(self, cell: int) -> TaskReport:
        task = self.tasks[cell]
        if self.writer is None or (task.marker and task.marker.exists()):
            return run_task(task, self.wait)
        return run_remotely(task, cell, self.writer, self.wait)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True


def run_on_ray(tasks: Sequence[CellTask], resources: Resources, wait: bool = False) -> list[TaskReport]:
    """Run one trial per task, in parallel; return one report each, empty if the trial's process died.

    The remaining trials of a cancelled run end at once, because their tasks do.
    """
    if ray.is_initialized():
        raise UserError("Ray runs in this process already: call ray.shutdown() first, or use --executor local")
    finished = threading.Event()
    with unchanged_process(**ENVIRONMENT), tempfile.TemporaryDirectory() as scratch:
        try:
            # Ray replaces the handlers of signals, and its processes inherit that of a closed terminal, SIGNALS[2:].
            with signal_handlers({number: signal.SIG_IGN for number in SIGNALS[2:]}):
                start(resources, Path(scratch))
            writer = None
            if resources.address:
                check_cluster(tasks, resources)
                writer = start_writer(tasks)
            else:
                watch_ray(finished)
            needs = [_needs(task.resources) for task in tasks]
            results = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(CellTrial, tasks=list(tasks), wait=wait, writer=writer),
                    lambda config: tune.PlacementGroupFactory([needs[config["cell"]]]),
                ),
                param_space={"cell": tune.grid_search(list(range(len(tasks))))},  # starts in this order
                tune_config=tune.TuneConfig(
                    reuse_actors=True,  # for trials with the same resources
                    trial_name_creator=lambda trial: tasks[trial.config["cell"]].config.name,
                    trial_dirname_creator=lambda trial: "-".join(tasks[trial.config["cell"]].folder.parts[-2:]),
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        finally:
            finished.set()
            ray.shutdown()
    return [_report(results[number]) for number in range(len(results))]


def _report(result: Any) -> TaskReport:
    """Return the report of a finished trial; that of a trial that failed names its error."""
    report = (result.metrics or {}).get("report")
    problem = str(result.error).strip().splitlines()[-1] if result.error else "its worker ended without a report"
    return TaskReport(**report) if report else TaskReport(problem=problem)


def start(resources: Resources, scratch: Path) -> None:
    """Start Ray on this machine, or join the cluster at an address and send it this code."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if resources.address:
        options |= {"address": resources.address, "runtime_env": {"py_modules": [str(stage_code(scratch))]}}
    else:
        options |= {"address": "local", "num_cpus": max(cores(), resources.cpus_per_cell)}
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        # Workers import from where this process does; Ray would put the working directory first, whatever it holds.
        path = [os.path.abspath(entry) for entry in reversed(sys.path)]
        options["job_config"] = JobConfig(_client_job=True, _py_driver_sys_path=path)
    try:
        host, _, port = (resources.address or "").rpartition(":")
        if port.isdecimal() and "/" not in host:  # if nothing answers, Ray ends this process
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(**options)
    except Exception as error:  # Ray raises many types
        known = "check that a cluster runs there, and that its token is known here (RAY_AUTH_MODE)"
        remedy = known if resources.address else "try --executor local"
        raise UserError(f"cannot start or reach Ray ({error_summary(error)}): {remedy}") from error


def watch_ray(finished: threading.Event) -> None:
    """End this process with one line if Ray's own processes on this machine die; Ray would end it with many."""

    def watch(name: str, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if not finished.is_set():
            cursor = "\x1b[?25h" if os.isatty(2) else ""  # which progress bars hide
            os.write(2, f"{cursor}\nerror: Ray's process {name} was killed: the same command resumes\n".encode())
            os._exit(1)

    node: Any = ray._private.worker._global_node
    for name, processes in node.all_processes.items():
        if name in ("raylet", "gcs_server"):
            threading.Thread(target=watch, args=(name, processes[0].process), daemon=True).start()


def stage_code(scratch: Path) -> Path:
    """Copy the package to ``scratch``, with the methods inside as in an installed one; return the copy."""
    copy, ignored = scratch / "bench", shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parents[1], copy, ignore=ignored)
    methods = importlib.import_module("bench.methods").__path__[0]
    shutil.copytree(methods, copy / "methods", ignore=ignored, dirs_exist_ok=True)
    return copy


def check_cluster(tasks: Sequence[CellTask], resources: Resources) -> None:
    """Raise ``UserError`` if no node of the cluster has the resources of a cell."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for needs in map(_needs, {task.resources for task in tasks}):
        if not any(all(node.get(kind, 0) >= need for kind, need in needs.items()) for node in nodes):
            raise UserError(
                f"the cluster at {resources.address} has no node for a cell: give less to one by --cpus-per-cell"
            )


def start_writer(tasks: Sequence[CellTask]) -> Call:
    """Start a writer on this machine, for nodes that do not see the output folder; return what calls its methods."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Writer).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
    writer = actor.remote(list(tasks))
    return lambda method, *arguments: ray.get(getattr(writer, method).remote(*arguments))


def _needs(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus_per_cell, "GPU": resources.gpus_per_cell}
