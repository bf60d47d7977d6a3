"""Ray's driver, a process of its own: ``python -m bench.experiment.ray_executor ANSWER`` with tasks on stdin.

The only file that imports ray. ``bench.execute`` starts it, and ends it by closing its standard input.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import replace
from bench.core.provenance import cores
from bench.experiment.executor import Resources, WorkerStats, worker_loop

# Set before ray is imported: no usage reports, no change of folder, no log files or boxes of its own, and nobody killed
# when memory is short: the system does that, and says so.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
LOCAL = "try --executor local"


def main(answer: Path) -> None:
    """Run the tasks; what the workers did, or the ``UserError``, is pickled into the file ``answer``."""
    tasks, resources = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        told: list[WorkerStats] | UserError = run(tasks, resources)
    except UserError as error:
        told = error
    replace(answer, lambda file: pickle.dump(told, file))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def run(tasks: Sequence[dict[str, Any]], resources: Resources) -> list[WorkerStats]:
    """What each of Ray's workers did, as far as it lived to tell."""
    os.environ |= QUIET
    import ray
    from ray import tune

    start(resources)

    def worker(config: dict[str, Any], tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return asdict(worker_loop(tasks, lambda done: tune.report(asdict(done))))

    try:
        with tempfile.TemporaryDirectory() as scratch:
            needs = {"cpu": resources.cpus_per_cell, "gpu": resources.gpus_per_cell}
            results = tune.Tuner(
                tune.with_resources(tune.with_parameters(worker, tasks=list(tasks)), needs),
                param_space={"worker": tune.grid_search(list(range(workers(resources, len(tasks)))))},
                run_config=tune.RunConfig(
                    name="workers",
                    storage_path=str(Path(scratch).resolve()),
                    verbose=0,
                    # For workers that die: a cell is given up after some of them.
                    failure_config=tune.FailureConfig(max_failures=2 * len(tasks) + 2),
                ),
            ).fit()
            told = [results[number].metrics or {} for number in range(len(results))]
            return [
                WorkerStats(**{name: each[name] for name in asdict(WorkerStats())})
                for each in told
                if "seconds" in each
            ]
    finally:
        ray.shutdown()


def start(resources: Resources) -> None:
    """Start Ray on this machine, or join the cluster at an address and bring it this very code."""
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if resources.address:
        root = Path(__file__).resolve().parents[2]
        modules = [str(root / name) for name in ("bench", "methods")]
        options |= {"address": resources.address, "runtime_env": {"py_modules": modules}}
    else:
        options |= {"address": "local", "num_cpus": max(cores(), resources.cpus_per_cell)}
        options |= {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises many kinds
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "is one running there, and its token known here (RAY_AUTH_MODE)?" if resources.address else LOCAL
        raise UserError(f"cannot start or reach Ray ({why}): {remedy}") from error


def workers(resources: Resources, cells: int) -> int:
    """How many workers there is room for; on a cluster, which may grow, and be used by others, some more may wait."""
    import ray

    if not resources.address:
        return resources.max_parallel(cells)
    there = ray.cluster_resources()
    slots = there.get("CPU", 0) // resources.cpus_per_cell
    if resources.gpus_per_cell:
        slots = min(slots, there.get("GPU", 0) // resources.gpus_per_cell)
    if slots < 1:
        raise UserError(f"the cluster at {resources.address} has no node with room for a cell")
    return int(min(cells, 2 * slots))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
