"""Cells on a Ray cluster of two nodes, both on this machine: code and data reach them, results come back, one dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bench.experiment.collect import Office, work_away

from bench.experiment.cell_folder import cell_folders
from bench.experiment.executor import WorkerStats

from .test_run import TOY

ROOT = Path(__file__).parents[1]
METHOD = (
    "from bench.method import Method\n\n\nclass Half(Method):\n"
    "    summary = 'half the KL'\n    citation = 'here'\n\n"
    "    def kl_loss(self, terms):\n        return 0.5 * terms.kl.mean()\n"
)


def test_cells_come_from_an_office_and_go_back_to_it(planned, task, tmp_path, monkeypatch):
    """Without Ray: a worker that sees nothing but the office leaves the files that it would have written itself."""
    monkeypatch.setattr("bench.experiment.collect.SYNC_SECONDS", 0.05)
    near, far = planned("vae", out=tmp_path / "near"), planned("vae", out=tmp_path / "far")
    from bench.experiment.executor import worker_loop

    marker = tmp_path / "marker"
    marker.touch()
    worker_loop([task(near, marker=str(marker))])
    office = Office([task(far, marker=str(marker))])
    told = []
    work_away(office, told.append)
    assert office.take() is False and not office.loans
    assert isinstance(told[0], WorkerStats) and told[0].seconds > 0
    assert far.folder.evaluation()["metrics"] == near.folder.evaluation()["metrics"]
    left_behind = {"previous.pt"}
    names = [{path.name for path in cell.folder.path.iterdir()} for cell in (near, far)]
    assert names[1] == names[0] - left_behind
    assert {path.name for path in far.folder.path.parent.iterdir()} == {far.folder.path.name}


def test_a_cell_whose_worker_is_silent_goes_to_another(planned, task, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    marker.touch()
    cell = planned("vae")
    office = Office([task(cell, marker=str(marker))])
    number, _, files = office.take()
    assert "config.json" in files and office.take() is True
    monkeypatch.setattr("bench.experiment.collect.LEASE_SECONDS", -1.0)
    other, _, _ = office.take()
    assert other != number
    assert office.put(number, {"result.json": b"late"}) is False and cell.folder.result() is None
    assert office.put(other, {"note.txt": b"in time"}) is True
    marker.unlink()
    assert office.put(other, {}) is False and office.take() is False


def test_what_is_of_no_use_is_put_aside_where_it_is_stored(planned, task, tmp_path):
    from bench.experiment.worker import run_cell

    cell = planned("vae")
    run_cell(task(cell))
    (cell.folder.path / "best.pt").write_bytes(b"torn")
    (cell.folder.path / "evaluation.json").unlink()
    marker = tmp_path / "marker"
    marker.touch()
    office = Office([task(cell, marker=str(marker), run="the next")])
    work_away(office)
    assert cell.folder.evaluation() and cell.folder.result()["status"] == "ok"
    (aside,) = cell.folder.path.parent.glob("superseded-*")
    assert (aside / "best.pt").read_bytes() == b"torn"


class Node:
    """One node of a Ray cluster, in a session of its own so that it can be killed whole."""

    def __init__(self, *arguments: str, cwd: Path):
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        command += ["--object-store-memory=100000000", *arguments]
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """Two nodes started from a folder where this code is not; their address and the second."""
    address = f"127.0.0.1:{free_port()}"
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    head = Node("--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", cwd=nowhere)
    second = None
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
                    break
            assert time.monotonic() < deadline, "the head does not listen"
            time.sleep(0.5)
        time.sleep(5)
        second = Node(f"--address={address}", cwd=nowhere)
        time.sleep(8)
        yield address, second
    finally:
        for node in (second, head):
            if node:
                node.kill()


@pytest.fixture
def tree(tmp_path):
    """A copy of the code with a method that is nowhere else, and a toy preset."""
    for folder in ("bench", "methods"):
        shutil.copytree(ROOT / folder, tmp_path / "tree" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tree" / "methods" / "half.py").write_text(METHOD)
    (tmp_path / "tree" / "bench" / "presets" / "quick.toml").write_text(TOY.replace("epochs = 3", "epochs = 40"))
    return tmp_path / "tree"


def command(tree: Path, *arguments: str, **options) -> subprocess.Popen:
    words = [sys.executable, "-m", "bench.cli.run", "--methods", "half,vae", "--seeds", "3", *arguments]
    environment = os.environ | {"BENCH_CACHE": str(tree.parent / "cache"), "RAY_AUTH_MODE": "disabled"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=tree, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [[], ["--collect"]], ids=["shared", "collected"])
def test_two_nodes_give_the_numbers_of_one_process_though_one_dies(cluster, tree, tmp_path, how):
    address, second = cluster
    alone = command(tree, "--executor", "local", "--out", str(tmp_path / "alone"))
    printed, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, printed
    out = tmp_path / "out"
    run = command(tree, "--address", address, "--out", str(out), *how)
    deadline = time.monotonic() + 240
    while sum((folder.result() or {}).get("status") == "ok" for folder in cell_folders(out)) < 2:
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        time.sleep(0.2)
    second.kill()
    printed, _ = run.communicate(timeout=400)
    assert run.returncode == 0, printed
    assert "Traceback" not in printed and "6 cells in" in printed, printed
    one, other = (
        {
            folder.path.name: json.loads((folder.path / "evaluation.json").read_text())["metrics"]
            for folder in cell_folders(place)
        }
        for place in (out, tmp_path / "alone")
    )
    assert one == other and len(one) == 6
