"""Executors: resources, statistics, locked cells, and a run on Ray."""

import os
import signal
import socket
import threading
import time

import pytest

from bench.core.errors import UserError
from bench.experiment.cell_folder import lock_cell
from bench.experiment.session import execute
from bench.experiment.task import Resources, RunStats
from tests.conftest import TRAIN
from tests.experiment.outcomes import assert_same_outcome


def test_parallel_cells_of_a_machine(monkeypatch, subtests):
    cases = [
        (Resources(), 40, 16, 16),
        (Resources(), 3, 3, 3),
        (Resources(cpus_per_cell=5), 40, 3, 3),
        (Resources(cpus_per_cell=32), 40, 1, 1),
        (Resources("local"), 40, 1, 1),
        (Resources(gpus_per_cell=1), 40, 2, 1),
        (Resources(gpus_per_cell=0.25), 40, 8, 4),
        (Resources(gpus_per_cell=0.25, cpus_per_cell=8), 40, 2, 2),
        (Resources(gpus_per_cell=2), 40, 1, 1),
    ]
    for resources, cells, parallel, per_device in cases:
        with subtests.test(resources=resources, cells=cells):
            monkeypatch.setattr("bench.experiment.task.cores", lambda: 16)
            monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
            assert resources.max_parallel(cells) == parallel
            assert resources.cells_per_device(cells) == per_device


def test_methods_with_more_memory_get_more_of_a_shared_gpu(planned):
    for share, expression, expected in [
        (0.1, "vae", 0.1),
        (0.1, "iwae(samples=4)", 0.4),
        (0.25, "sa_vae(steps=10)", 1.0),
        (1.0, "sa_vae(steps=10)", 1.0),
        (0.0, "sa_vae(steps=10)", 0.0),
    ]:
        factor = planned(expression).variant.instance().expected_memory(TRAIN)
        assert Resources(gpus_per_cell=share).for_memory(factor).gpus_per_cell == expected


def test_statistics_in_one_line():
    assert str(RunStats(6, 2, 213.2, 6.4, 413.0)) == (
        "6 cells in 3 min 33 s on 2 workers: 6 s to start, workers 97 % busy"
    )
    assert str(RunStats(1, 1, 12.0, 0.0, 11.4)).startswith("1 cell in 12 s on 1 worker: 0 s to start")


def test_a_locked_cell_is_left_to_the_end_and_waited_for(planned, task):
    locked, free = planned("vae"), planned("beta_vae")
    held = threading.Event()

    def hold():
        with lock_cell(locked.folder.path):
            held.set()
            while planned("beta_vae").status != "done":
                time.sleep(0.1)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(60)
    stats = execute([task(locked), task(free)], Resources("local"))
    assert stats.cells == 2 and not stats.problems
    assert planned("vae").status == "done"


def test_a_cancelled_run_starts_no_cell(planned, task, tmp_path):
    cell = planned("vae")
    execute([task(cell, marker=tmp_path / "missing")], Resources("local"))
    assert planned("vae").status == "missing"


def test_an_unwritable_folder_is_a_problem_of_the_worker(planned, task, monkeypatch):
    def full(self, name, write):
        raise OSError(28, "No space left on device", str(self.path / name))

    monkeypatch.setattr("bench.experiment.cell_folder.CellFolder.write", full)
    (problem,) = execute([task(planned("vae"))], Resources("local")).problems
    assert problem.startswith("cannot read or write ") and problem.endswith("No space left on device")


def test_ray_gives_the_numbers_of_one_process(planned, task, tmp_path, capfd):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    cells = [planned(name) for name in ("vae", "aggressive")]
    stats = execute([task(cell) for cell in cells], Resources())
    assert stats.cells == 2 and stats.in_cells > 0 and not stats.problems
    for cell, name in zip(cells, ("vae", "aggressive"), strict=True):
        local = planned(name, out=tmp_path / "local")
        execute([task(local)], Resources("local"))
        assert_same_outcome(cell.folder, local.folder)
    printed = capfd.readouterr()
    assert not printed.out and not printed.err
    assert handlers == {number: signal.getsignal(number) for number in handlers}


@pytest.mark.slow
def test_a_cell_whose_ray_worker_is_killed_is_run_again(planned, task, tmp_path, monkeypatch):
    """The worker kills itself through a hook of its environment, which its process inherits."""
    cell = planned("vae")
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, signal, sys, threading, time\n"
        "def watch():\n"
        "    while True:\n"
        "        time.sleep(0.05)\n"
        "        flag = os.environ['KILL_FLAG']\n"
        "        if 'bench.training.trainer' in sys.modules and os.path.exists(os.environ['KILL_WHEN']):\n"
        "            try: os.close(os.open(flag, os.O_CREAT | os.O_EXCL))\n"
        "            except FileExistsError: return\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "if 'default_worker' in ' '.join(sys.orig_argv): threading.Thread(target=watch, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("KILL_FLAG", str(tmp_path / "killed"))
    monkeypatch.setenv("KILL_WHEN", str(cell.folder.path / "result.json"))
    execute([task(cell)], Resources())
    assert (tmp_path / "killed").exists()
    assert cell.folder.evaluation() and cell.folder.attempts().finished


def test_address_without_a_cluster_is_an_error(tmp_path):
    from bench.experiment.run_on_ray import start

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening
        resources = Resources(address=f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(UserError, match="cannot start or reach Ray .*: check that a cluster runs there"):
            start(resources, tmp_path)
