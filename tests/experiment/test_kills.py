"""Anything can be killed at any moment: nothing finished is lost, no number changes, nobody has to clean up."""

import os
import random
import signal
import time
from collections import Counter

import pytest

from bench.core.files import UNFINISHED
from bench.experiment.cell_folder import ABANDONED_SECONDS, cell_folders
from bench.training.trainer import Trainer
from tests.cli.test_run import bench, toy  # noqa: F401
from tests.experiment.kills import CELLS, FILES, FORK, Place, assert_same, finished, litter, numbers

forks = pytest.mark.skipif(not FORK, reason="needs fork")
linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for what is left running in /proc")

#: How the command is ended, and the exit statuses that this may have.
ENDED = {
    "SIGKILL": {-signal.SIGKILL},
    "SIGTERM": {128 + signal.SIGTERM},
    "SIGINT": {128 + signal.SIGINT},
    "SIGINT twice": {128 + signal.SIGINT, -signal.SIGINT},  # the second while it was ending anyway
    "SIGTERM to all": {128 + signal.SIGTERM},
    "SIGKILL at any time": {-signal.SIGKILL},
    "power, middle": {-signal.SIGKILL},
    "power, before": {-signal.SIGKILL},
    "power, after": {-signal.SIGKILL},
}
#: Processes of Ray by their command lines. The command survives them, or says in one line why it could not.
PARTS = {
    "Ray's worker": "ray::Impl",
    "raylet": "raylet/raylet",
    "gcs_server": "gcs_server",
    "Ray's driver": "bench.experiment.ray_executor",
}


def strike(command, kind, chance, moment=5):
    """Do a kind of harm at a random moment; whether it was done before the command ended by itself."""
    if kind == "SIGKILL at any time":
        time.sleep(chance.uniform(0, 4))
        return command.send(signal.SIGKILL) and command.process.wait() == -signal.SIGKILL
    if not command.await_training():
        return False
    time.sleep(chance.uniform(0, moment))
    if kind in PARTS:
        return command.process.poll() is None and command.send(signal.SIGKILL, PARTS[kind])
    if command.process.poll() is not None:
        return False
    if kind == "SIGTERM to all":
        return command.send_all(signal.SIGTERM)
    struck = command.send(getattr(signal, kind.split()[0]))
    if "twice" in kind:
        time.sleep(chance.uniform(0, 0.4))
        command.send(signal.SIGINT)
    return struck


def ordeal(place, whole, executor, volleys, seed, log=print):
    """Start the command again and again, each time with another volley of harm, until none is left and it ends by
    itself; a fresh folder whenever it does. How often each kind of harm was done."""
    chance, done, rounds, misses = random.Random(seed), Counter(), 0, 0
    volleys = [*volleys]
    chance.shuffle(volleys)
    out, safe = place.path / f"out-{executor}-0", {}
    while True:
        volley, struck, extra = volleys.pop() if volleys else [], [], {}
        power = place.path / f"power-{time.monotonic_ns()}"
        if volley and volley[0].startswith("power"):  # which strikes by itself
            extra["POWER"] = f"{volley[0].split()[-1]} {chance.randint(1, 60)} {power}"
        began = time.monotonic()
        command = place.start(out, executor=executor, **extra)
        if extra:
            command.await_training()
            command.tree()
        for kind in () if extra else volley:
            if not strike(command, kind, chance):
                break
            struck.append(kind)
            safe |= finished(out)
            command.before = len(place.telling())
        ended = command.end()
        if power.exists():
            struck = volley
        if missed := volley[len(struck) :]:
            volleys.insert(chance.randint(0, len(volleys)), missed)
        misses = misses + 1 if volley and not struck else 0
        assert misses < 10, f"no way to strike by {missed}"
        done.update(f"{executor}: {kind}" for kind in struck)
        log(f"{executor:5} {', '.join(struck) or '–'} in {time.monotonic() - began:.1f} s: {ended.status}, "
            f"{len(safe) // FILES} cells were finished", flush=True)  # fmt: skip
        now = finished(out)
        assert safe.items() <= now.items(), "a finished cell changed"
        safe = now
        assert ended.status in statuses(struck, executor), f"{struck}: {ended.status}\n{ended.said}"
        assert "Traceback" not in ended.said or -ended.status == signal.SIGKILL, ended.said
        if ended.status == 0:
            rounds += 1
            assert len([*cell_folders(out)]) == CELLS and [*out.glob("tables/*.csv")]
            assert_same(numbers(out), whole)
            assert not litter(out), litter(out)
            if not volleys:
                break
            out, safe = place.path / f"out-{executor}-{rounds}", {}
    assert not place.left_running(60)
    log(f"{executor}: {done.total()} kills, {rounds} benchmarks finished: {dict(done)}")
    return done


def statuses(struck, executor):
    """How a command may end after a volley: by itself, or as its last kind of harm ends it."""
    if not struck:
        return {0}
    if struck[-1] in PARTS or (executor == "ray" and struck[-1].startswith("power")):
        return {0, 1, 2}  # a cell that lost two workers has failed, and Ray is started three times
    return {0} | ENDED[struck[-1]]


def no_report(*_, **__):
    """In place of the report, which takes longer than all else."""
    return []


def at_update(number):
    """Die after so many updates of training."""
    look, left = Trainer.poll, [number]

    def die(trainer):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        look(trainer)

    Trainer.poll = die


def at_file(number):
    """Die when so many files are written and the last is not renamed yet."""
    replace, left = os.replace, [number]

    def die(source, target):
        left[0] -= str(source).endswith(UNFINISHED)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = die


@forks
@pytest.mark.parametrize(
    "strikes", [[(at_update, 7), (at_file, 35), (at_update, 3)], [(at_file, 9), (at_file, 45), (at_file, 12)]]
)
def test_three_kills_lose_nothing_and_change_no_number(toy, tmp_path, strikes, monkeypatch):  # noqa: F811
    """The command in a process that is forked from this one, and dies at a given point."""
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("bench.reporting.report.build", no_report)
    words = ["--methods", "vae,kl_annealing"]

    def command(harm, number):
        harm(number)
        bench(toy, *words)

    before = {}
    for harm, number in strikes:
        process = FORK.Process(target=command, args=(harm, number))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert before.items() <= finished(toy).items()
        before = finished(toy)
    assert len({file.parent for file in before}) == 1, "one cell was finished, the other was not"
    assert litter(toy)
    assert bench(toy, *words) == 0
    assert before.items() <= finished(toy).items() and not litter(toy)
    assert bench(tmp_path / "whole", *words) == 0
    assert_same(numbers(toy), numbers(tmp_path / "whole"))


@forks
def test_a_kill_after_the_last_number_leaves_nothing_to_clean_up(toy, monkeypatch):  # noqa: F811
    """Every cell is done, but the process that was at the last had not tidied up."""
    monkeypatch.setattr("bench.reporting.report.build", no_report)

    def command():
        from bench.experiment.cell_folder import CellFolder

        def die(folder):
            os.kill(os.getpid(), signal.SIGKILL)

        CellFolder.end_attempts = die
        bench(toy, "--methods", "vae")

    process = FORK.Process(target=command)
    process.start()
    process.join(60)
    left, done = litter(toy), finished(toy)
    assert process.exitcode == -signal.SIGKILL and done and {path.rsplit(".")[-1] for path in left} > {"lock"}
    assert bench(toy, "--methods", "vae") == 0
    assert finished(toy) == done and not litter(toy)


def test_half_a_file_of_a_report_goes_when_it_is_too_old_to_be_in_the_making(toy):  # noqa: F811
    assert bench(toy, "--methods", "vae") == 0
    old, young = (toy / "tables" / f".toy-quick.csv.{name}{UNFINISHED}" for name in ("old", "young"))
    for file in (old, young):
        file.touch()
    os.utime(old, 2 * (time.time() - 2 * ABANDONED_SECONDS,))
    assert bench(toy, "--methods", "vae") == 0
    assert not old.exists() and young.exists()


@pytest.fixture(scope="session")
def place(tmp_path_factory, prepared_glyphs):
    return Place(tmp_path_factory.mktemp("killed"), prepared_glyphs)


@pytest.fixture(scope="session")
def prepared_glyphs(tmp_path_factory):
    """A cache in which the characters that the commands train on are made once."""
    return os.environ.get("BENCH_CACHE") or tmp_path_factory.mktemp("glyphs")


@pytest.fixture(scope="session")
def whole(place):
    """The numbers of a run that nobody disturbed."""
    ended = place.start(place.path / "whole").end()
    assert ended.status == 0, ended.said
    assert not litter(place.path / "whole")
    return numbers(place.path / "whole")


@linux
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_of_a_run_in_one_process(place, whole):
    kinds = 6 * ["SIGKILL", "SIGKILL at any time"] + 3 * ["SIGTERM", "SIGINT", "SIGINT twice"]
    kinds += 2 * ["SIGTERM to all"] + 4 * ["power, middle", "power, before", "power, after"]
    done = ordeal(place, whole, "local", [[kind] for kind in kinds], seed=1)
    assert done.total() == 35


@linux
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_of_a_run_on_ray_and_of_every_part_of_it(place, whole):
    parts = 3 * [*PARTS]
    random.Random(2).shuffle(parts)
    last = 3 * ["SIGKILL"] + ["SIGTERM", "SIGINT", "SIGINT twice", "SIGTERM to all", "SIGKILL at any time"]
    volleys = [[*parts[n::8], kind] for n, kind in enumerate(last)]
    volleys += [["power, middle"], ["power, before"], ["power, after"]]
    done = ordeal(place, whole, "ray", volleys, seed=2)
    assert done.total() == 23
