"""Locks, claims, markers, signals and silence: what lets many processes work on one folder, and any of them die."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.core import cancellation as watchdog
from bench.core.errors import Stopped, UserError
from bench.core.locks import file_lock
from bench.experiment.cell_folder import lock_cell
from bench.experiment.executor import Resources, execute, worker_loop
from bench.experiment.session import PREFIX, run_tasks, running
from bench.experiment.worker import run_cell
from bench.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
HOLD = (
    "import sys, time; from pathlib import Path; from bench.locks import held\n"
    "with held(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def not_asked_to_stop():
    """What follows in this process: being asked to stop is for the process."""
    yield
    watchdog.stop(False)


@pytest.fixture
def quick(monkeypatch):
    """A watch that looks often."""
    monkeypatch.setattr("bench.core.cancellation.POLL_SECONDS", 0.02)


def holder(path):
    """A process that holds a lock file until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "True\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


# -- locks --------------------------------------------------------------------------------------------------------


def test_a_file_system_without_locks_is_refused_in_one_line(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises((OSError, NotImplementedError)), file_lock(tmp_path / ".lock"):
        pass
    with pytest.raises(UserError, match="cannot lock files under --out .* another file system") as refused:
        with running(tmp_path):
            pass
    assert "\n" not in str(refused.value)


def test_a_cell_is_claimed_by_one(tmp_path):
    folder = tmp_path / "runs" / "vae" / "seed-0-abc"
    with lock_cell(folder) as mine:
        assert mine and not folder.exists(), "a claim writes nothing into the folder"
        with lock_cell(folder) as another, lock_cell(folder.with_name("seed-1-abc")) as neighbour:
            assert not another and neighbour
    assert not any(folder.parent.iterdir())


# -- runs ---------------------------------------------------------------------------------------------------------


def test_a_marker_that_a_killed_run_left_is_removed_and_one_of_a_run_that_lives_is_not(tmp_path):
    live, dead = tmp_path / f"{PREFIX}live", tmp_path / f"{PREFIX}dead"
    dead.touch()
    process = holder(live)
    try:
        with running(tmp_path) as run:
            assert not dead.exists() and live.exists() and run.marker.exists()
    finally:
        kill(process)
    assert [path.name for path in tmp_path.iterdir()] == [live.name]
    with running(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


@pytest.fixture
def interruptible():
    """As in the foreground: what a script starts in the background is born with this signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_first_signal_removes_the_marker_the_second_raises_and_handlers_come_back(tmp_path, capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with running(tmp_path) as run:
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.signal == signal.SIGTERM and not run.marker.exists() and not run.output_deleted()
        assert "once more to stop at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == {number: signal.getsignal(number) for number in before}


def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running(tmp_path) as run:
            os.kill(os.getpid(), signal.SIGHUP)
            assert run.signal is None and run.marker.exists()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with running(tmp_path) as one:
            found.append((one.before, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [({}, before)]


def test_a_run_that_is_stopped_says_how_far_it_came_and_goes_on_from_there(planned, task, tmp_path, quick, monkeypatch):
    cells = [planned("vae"), planned("beta_vae")]
    whole = planned("beta_vae", out=tmp_path / "whole")
    run_cell(task(whole))
    step, steps = Trainer.poll, []

    def stop_in_the_second_cell(trainer):
        step(trainer)
        steps.append(trainer.ctx.step)
        if len(steps) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # until the watch has seen it

    def carry(cells):
        keys = ("run", "marker", "silence")
        tasks = [{name: value for name, value in task(cell).items() if name not in keys} for cell in cells]
        return run_tasks(tmp_path / "out", tasks, Resources("local"), 1, threading.Lock(), print)

    (tmp_path / "out").mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "look", stop_in_the_second_cell)
        with pytest.raises(Stopped, match="1 of 2 cells are through") as stopped:
            carry(cells)
    assert stopped.value.signal == signal.SIGTERM
    assert planned("vae").status == "done" and planned("beta_vae").status == "missing"
    carry(cells[1:])
    assert cells[1].folder.result()["resumes"] == 1
    assert cells[1].folder.evaluation()["metrics"] == whole.folder.evaluation()["metrics"]


def test_an_output_folder_that_vanishes_ends_the_run_and_is_not_made_again(planned, task, tmp_path, monkeypatch):
    cell, look = planned("vae"), Trainer.poll

    def vanish(trainer):
        look(trainer)
        if trainer.ctx.step == 2:
            (tmp_path / "out").rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Trainer, "look", vanish)
    (tmp_path / "out").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="has vanished: bring it back"):
        run_tasks(tmp_path / "out", [task(cell)], Resources("local"), 1, threading.Lock(), print)
    assert not (tmp_path / "out" / "runs" / "toy").exists()


# -- silence ------------------------------------------------------------------------------------------------------


def test_silence_is_noticed_with_where_it_is_and_work_that_goes_on_is_left_alone(quick):
    stacks = []
    with watchdog.watched(0.2, stacks.append):
        for _ in range(10):
            time.sleep(0.05)
            watchdog.pulse()
    assert not stacks
    with watchdog.watched(0.2, stacks.append):
        time.sleep(0.5)
    assert len(stacks) == 1 and "time.sleep(0.5)" in stacks[0]


def test_a_pulse_stops_work_that_was_asked_to_but_not_what_must_be_whole(quick):
    watchdog.pulse()
    try:
        with watchdog.watched(60, print, asked=lambda: True):
            end = time.monotonic() + 5
            with pytest.raises(watchdog.Interrupted):
                while time.monotonic() < end:
                    watchdog.pulse()
        assert watchdog.stopping()
        with watchdog.uninterrupted():
            watchdog.pulse()
            with watchdog.uninterrupted():
                pass
            watchdog.pulse()
        with pytest.raises(KeyboardInterrupt):
            watchdog.pulse()
    finally:
        watchdog.stop(False)
    watchdog.pulse()


def hang(self, ctx, *batch):
    time.sleep(60)


@linux
def test_a_hanging_hook_is_tried_twice_then_failed_and_others_go_on(planned, task, quick, monkeypatch, capfd):
    """As on Ray, where a worker that ended itself is started again."""
    from bench.training import registry

    silent, other = planned("beta_vae"), planned("vae")
    monkeypatch.setattr(registry.method("beta_vae"), "step", hang)
    tasks = [task(silent, silence=2), task(other)]
    statuses = []
    while not statuses or statuses[-1]:
        worker = FORK.Process(target=worker_loop, args=(tasks,))
        worker.start()
        worker.join(30)
        statuses.append(worker.exitcode)
    assert statuses == [0]
    result = silent.folder.result()
    assert result["status"] == "failed" and "no progress for" in result["reason"]
    assert "hang" in result["traceback"] and "time.sleep(60)" in result["traceback"]
    assert {"run": "this", "number": 3, "over": True}.items() <= silent.folder.attempts().items()
    assert planned("vae").status == "done"
    assert capfd.readouterr().err.count("ended, for want of progress") == 2
    monkeypatch.undo()
    execute([task(silent, run="the next")], Resources("local"))
    assert planned("beta_vae").status == "done", "the next run tries it again"


@linux
def test_a_cell_whose_workers_die_without_a_word_is_given_up_with_advice(planned, task, monkeypatch):
    from bench.training import registry

    def die(self, ctx, *batch):
        os.kill(os.getpid(), signal.SIGKILL)

    cell, other = planned("beta_vae"), planned("vae")
    monkeypatch.setattr(registry.method("beta_vae"), "step", die)
    statuses = []
    while not statuses or statuses[-1]:
        worker = FORK.Process(target=worker_loop, args=([task(cell), task(other)],))
        worker.start()
        worker.join(30)
        statuses.append(worker.exitcode)
    assert statuses == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert cell.folder.result()["reason"].startswith("WorkerDied: its worker died 2 times")
    assert planned("vae").status == "done"
