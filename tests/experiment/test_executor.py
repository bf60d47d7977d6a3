"""Many cells on one machine: what they take, what they share, and where the time goes."""

import time

import pytest

from bench.experiment import worker as cells
from bench.experiment.executor import Resources, RunStats, execute
from tests.conftest import MODEL


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr("bench.experiment.executor.cores", lambda: 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.parametrize(
    ("resources", "cells", "side_by_side", "sharing"),
    [
        (Resources(), 40, 16, 16),
        (Resources(), 3, 3, 3),
        (Resources(cpus_per_cell=5), 40, 3, 3),
        (Resources(cpus_per_cell=32), 40, 1, 1),
        (Resources("local"), 40, 1, 1),
        (Resources(gpus_per_cell=1), 40, 2, 1),
        (Resources(gpus_per_cell=0.25), 40, 8, 4),
        (Resources(gpus_per_cell=0.25, cpus_per_cell=8), 40, 2, 2),
        (Resources(gpus_per_cell=2), 40, 1, 1),
    ],
)
def test_cells_share_gpus_by_fractions_and_the_processor_by_cores(resources, cells, side_by_side, sharing):
    assert resources.max_parallel(cells) == side_by_side
    assert resources.cells_per_device(cells) == sharing


def test_where_the_time_went_is_told(planned, task, monkeypatch):
    ran = []

    def run_cell(task):
        time.sleep(0.05)
        ran.append(task)

    monkeypatch.setattr("bench.experiment.worker.run_cell", run_cell)
    tasks = [task(planned("vae")), task(planned("beta_vae"))]
    spent = execute(tasks, Resources("local"))
    assert ran == tasks
    assert (spent.cells, spent.workers) == (2, 1)
    assert 0.1 <= spent.in_cells <= spent.wall < 1 and spent.starting < 0.1
    assert str(RunStats(6, 2, 213.2, 6.4, 413.0)) == (
        "6 cells in 3 min 33 s on 2 workers: 6 s until the first began, 97 % of the workers' time in cells"
    )
    assert str(RunStats(1, 1, 12.0, 0.0, 11.4)).startswith("1 cell in 12 s on 1 worker: 0 s until")


def test_a_worker_loads_a_data_set_once(planned, task, monkeypatch):
    loaded = []

    def load(prepared, model):
        loaded.append(model)
        return cells_load(prepared, model)

    cells_load = cells.load
    monkeypatch.setattr(cells, "load", load)
    cells._load_data.cache_clear()
    execute([task(planned(name)) for name in ("vae", "beta_vae")], Resources("local"))
    assert loaded == [MODEL]
    assert all(planned(name).status == "done" for name in ("vae", "beta_vae"))


def test_cells_run_with_the_threads_they_were_given(planned, task, monkeypatch):
    given = []
    monkeypatch.setattr("torch.set_num_threads", given.append)
    cells.run_cell(task(planned("vae"), threads=3))
    assert given == [3]
