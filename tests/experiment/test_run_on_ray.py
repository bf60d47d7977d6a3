"""How Ray places trials: their order, their names, and several on one GPU."""

import os
import signal
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from bench.experiment.task import CellTask, Resources
from benchmarks.kills import COMMAND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]


@dataclass(frozen=True)
class Recorder(CellTask):
    """A task that only records its process, and waits until ``together`` tasks are running."""

    log: Path = Path()
    together: int = 1

    @property
    def cancelled(self) -> bool:
        title = Path("/proc/self/cmdline").read_text().rstrip("\0")
        record = [self.config.name, str(os.getpid()), os.environ.get("CUDA_VISIBLE_DEVICES", ""), title]
        with self.log.open("a") as file:
            file.write("\t".join(record) + "\n")
        deadline = time.monotonic() + 60
        while len(self.log.read_text().splitlines()) < self.together and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        return True


@pytest.fixture
def run(planned, task, tmp_path, monkeypatch):
    """``run(expressions, resources, cpus)`` -> name, process, GPUs and process title of every task, as they start."""

    def start(expressions, resources, cpus, gpus=0, together=1):
        from bench.experiment import run_on_ray

        monkeypatch.setattr(run_on_ray, "cores", lambda: cpus)
        monkeypatch.setattr("ray.init", partial(run_on_ray.ray.init, num_gpus=gpus))
        log = tmp_path / "log"
        tasks = []
        for number, expression in enumerate(expressions):
            settings = vars(task(planned(expression, seed=number))) | {"resources": resources}
            tasks.append(Recorder(**settings, log=log, together=together))
        reports = run_on_ray.run_on_ray(tasks, resources)
        assert all(report.worker for report in reports)
        return [line.split("\t") for line in log.read_text().splitlines()]

    return start


def test_trials_start_in_order_and_have_the_names_of_cells(run):
    expressions = [f"beta_vae(beta={beta})" for beta in (0.7, 0.1, 0.5, 0.3, 0.6, 0.2, 0.4)]
    lines = run(expressions, Resources(), cpus=2, together=2)
    positions = defaultdict(list)
    for name, process, *_ in lines:
        positions[process].append(expressions.index(name.split()[0]))
    assert all(places == sorted(places) for places in positions.values()), "one process may be slower than the other"
    assert len(positions) == 2, "processes are reused"
    assert all(title == f"ray::{name}" for name, _, _, title in lines)


def test_the_death_of_ray_ends_the_command_with_one_line(tmp_path):
    """In a new process: Ray cannot be used in a fork of one that has used it."""
    command = subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not [*tmp_path.rglob("result.json")]:
        assert command.poll() is None
        time.sleep(0.1)
    (raylet,) = [number for number in children(command.pid) if "raylet" in Path(f"/proc/{number}/cmdline").read_text()]
    os.kill(raylet, signal.SIGKILL)
    _, error = command.communicate(timeout=60)
    assert command.returncode == 1
    assert error.splitlines()[-1] == "error: Ray's process raylet was killed: the same command resumes"


def children(process: int) -> list[int]:
    return [int(n) for file in Path(f"/proc/{process}/task").glob("*/children") for n in file.read_text().split()]


def test_four_cells_share_each_of_two_gpus(run):
    expressions = [f"beta_vae(beta=0.{number})" for number in range(1, 9)]
    lines = run(expressions, Resources(gpus_per_cell=0.25), cpus=8, gpus=2, together=8)
    devices = [device for _, _, device, _ in lines]
    assert sorted(devices) == ["0"] * 4 + ["1"] * 4
    assert len({process for _, process, *_ in lines}) == 8, "all eight at the same time"
