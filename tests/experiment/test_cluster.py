"""Two nodes of a Ray cluster on this machine: one is killed, or does not see the output folder."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.experiment.session import execute
from bench.experiment.task import Resources
from bench.experiment.worker import run_cell
from tests.experiment.outcomes import assert_same_outcome

pytestmark = pytest.mark.slow
EXPRESSIONS = ("vae", "vae+anneal", "beta_vae", "aggressive")
RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of one node with one core, whose token the processes of this test share."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def tasks(planned, task, cluster, tmp_path):
    """Tasks for the cluster."""
    (tmp_path / "out").mkdir()
    marker = tmp_path / "out" / ".run-test.lock"
    marker.touch()
    resources = Resources(address=cluster.address)
    return [task(planned(name), resources=resources, marker=marker) for name in EXPRESSIONS]


def assert_all_done(planned, task, folder):
    """Compare each cell with the same one run in this process."""
    for name in EXPRESSIONS:
        local = planned(name, out=folder / "local")
        run_cell(task(local))
        assert_same_outcome(planned(name).folder, local.folder)


def test_cells_of_a_killed_node_run_on_the_other(planned, task, cluster, tasks, tmp_path):
    node = cluster.add_node(num_cpus=1)

    def kill():
        while not all(each.folder.exists() for each in tasks[:2]):
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    stats = execute(tasks, tasks[0].resources)
    assert not killer.is_alive() and not stats.problems
    assert_all_done(planned, task, tmp_path)


def test_a_node_that_does_not_see_the_folder_sends_its_files(planned, task, cluster, tasks, tmp_path, monkeypatch):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("needs mount namespaces")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "out"))  # hidden, too
    (tmp_path / "cache").mkdir()
    hide = f"mount -t tmpfs none {tmp_path / 'out'} && export BENCH_CACHE={tmp_path / 'cache'}"
    start = f"exec {RAY} start --address={cluster.address} --num-cpus=1 --block"
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", f"{hide} && {start}"])
    try:
        while len(cluster.global_state._live_node_ids()) < 2:
            assert node.poll() is None
            time.sleep(0.5)
        stats = execute(tasks, tasks[0].resources)
    finally:
        node.terminate()
        node.wait(60)
    assert stats.workers == 2 and not stats.problems
    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {tasks[0].data.name}
    assert_all_done(planned, task, tmp_path)
