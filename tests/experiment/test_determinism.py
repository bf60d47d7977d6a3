"""A cell is a pure function of its configuration: nothing around it, before it or between its parts changes a bit.

Compared is all that its folder keeps: what training counted, its history, the last and the selected weights,
optimisers, the evaluation with its groups, examples, arrays and texts. Not: seconds, memory, resumes, provenance.
"""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bench.core import cancellation as watchdog
from bench.core.files import read_json
from bench.data.cache import cached
from bench.data.dataset import Prepared
from bench.experiment.worker import run_cell
from bench.method import Phase
from bench.training import registry
from bench.training.context import TrainingContext
from tests.conftest import TEXT_TOY, TOY, TRAIN, planner, tasks

ROOT = Path(__file__).parents[2]
METHODS = [*(name for name in registry.method_names() if name != "sa_vae"), "sa_vae(steps=2)", "aggressive+anneal"]
MODALITIES = ["image", "text"]
QUICK = [("vae+anneal", "image"), ("aggressive", "image"), ("sa_vae(steps=2)", "text")]
EVERY = [
    *QUICK,
    *(
        pytest.param(name, modality, marks=pytest.mark.slow)
        for name in METHODS
        for modality in MODALITIES
        if (name, modality) not in QUICK
    ),
]
#: What the surroundings change, by name.
AROUND = ("provenance", "shared", "attempt", "resumes", "tries", "seconds")


def plain(value):
    """``value`` as what compares bit for bit, without what its surroundings change."""
    if isinstance(value, dict):
        return {
            str(key): plain(each)
            for key, each in value.items()
            if not str(key).endswith(AROUND) and "memory" not in str(key)
        }
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes() if value.dtype != object else value.tolist()
    return value


def outcome(folder):
    """All that is stored of a finished cell, by file."""
    result = folder.result()
    assert result["status"] == "ok", result.get("traceback")
    assert folder.evaluation(), result.get("evaluation_failure")
    examples = pd.read_parquet(folder.path / "examples.parquet")
    with np.load(folder.path / "arrays.npz") as arrays:
        kept = dict(arrays)
    found = {
        "config": folder.config,
        "result": result,
        "history": folder.history(),
        "evaluation": folder.evaluation(),
        "examples": {name: examples[name].to_numpy() for name in examples},
        "arrays": kept,
        "texts": read_json(folder.path / "texts.json", missing_ok=True),
        "best.pt": torch.load(folder.path / "best.pt", weights_only=True),
        "last.pt": torch.load(folder.path / "last.pt", weights_only=True),
    }
    return {name: plain(value) for name, value in found.items()}


def differences(one, other, where=""):
    """Where two outcomes differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}/{i}")
    elif not (one == other or (one != one and other != other)):
        yield f"{where}: {one!r:.60} is not {other!r:.60}"


def assert_equal(one, other):
    found = sorted(differences(outcome(one), outcome(other)))
    assert not found, "\n".join(found[:10])


class Toys:
    """Cells of both modalities, planned in a folder of their own, and the task of each."""

    def __init__(self, prepared, text_prepared, folder):
        self.folder, self.number, self.wholes = folder, 0, {}
        self.sets = {"image": (prepared, TOY), "text": (text_prepared, TEXT_TOY)}

    def cell(self, expression, modality="image", **train):
        """A cell and its task, in a folder that nobody has used."""
        data, preset = self.sets[modality]
        self.number += 1
        preset = replace(preset, train=replace(preset.train, **train))
        cell = planner(data, preset, self.folder / str(self.number))(expression)
        return cell.folder, tasks(data)(cell)

    def run(self, expression, modality="image", **train):
        folder, task = self.cell(expression, modality, **train)
        run_cell(task)
        return folder

    def whole(self, expression, modality="image", **train):
        """The cell as it comes out when nothing happens; made once."""
        key = (expression, modality, *train.items())
        if key not in self.wholes:
            self.wholes[key] = self.run(expression, modality, **train)
        return self.wholes[key]


@pytest.fixture(scope="module")
def toys(prepared, text_prepared, tmp_path_factory):
    return Toys(prepared, text_prepared, tmp_path_factory.mktemp("cells"))


def test_a_number_that_differs_in_its_last_bit_is_found(toys):
    one = outcome(toys.whole("vae"))
    other = outcome(toys.whole("vae"))
    assert not list(differences(one, other))
    other["evaluation"]["metrics"]["nll"] = np.nextafter(one["evaluation"]["metrics"]["nll"], 0)
    assert len(list(differences(one, other))) == 1


# -- what is around a cell -----------------------------------------------------------------------------------------

#: What a fresh process does: disturb all that is global, then run the tasks that it is given.
ELSEWHERE = """
import json, random, sys
import numpy, torch
random.seed(5); numpy.random.seed(5); torch.manual_seed(5); torch.rand(7)
torch.set_num_threads(3)
from bench.cell import run_cell
for task in json.load(open(sys.argv[1])):
    run_cell(task)
"""


def elsewhere(jobs, place):
    """Run tasks in one fresh process whose surroundings are all other ones."""
    for name in ("work", "tmp", "home"):
        (place / name).mkdir(parents=True)
    (place / "tasks.json").write_text(json.dumps(jobs))
    surroundings = {
        "PYTHONHASHSEED": "4242",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(place / "tmp"),
        "HOME": str(place / "home"),
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "COLUMNS": "40",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANG", "OMP_", "MKL_"))}
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(place / "tasks.json")],
        cwd=place / "work",
        env=kept | surroundings,
        check=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "whats", [QUICK, pytest.param([(name, kind) for name in METHODS for kind in MODALITIES], marks=pytest.mark.slow)]
)
def test_another_process_gives_the_same_bits_in_another_order_place_locale_and_time_zone(whats, toys, tmp_path):
    """Hash seed, thread variables and random states are other ones too."""
    cells = [(toys.cell(*what), what) for what in whats]
    elsewhere([task for (_, task), _ in reversed(cells)], tmp_path)
    for (folder, _), what in cells:
        assert_equal(folder, toys.whole(*what))


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("expression", METHODS)
def test_two_cells_in_one_worker_are_those_of_two_workers(expression, modality, toys, tmp_path):
    toys.run("vae", modality)
    neighbour = toys.run(expression, modality)
    alone, task = toys.cell(expression, modality)
    elsewhere([task], tmp_path)
    assert_equal(alone, neighbour)


def test_what_others_did_to_global_state_changes_nothing(toys):
    """Generators, threads, the default type, the precision of products: whoever else ran here may have set any."""
    expected = toys.whole("sa_vae(steps=2)", "text")
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    try:
        found = toys.run("sa_vae(steps=2)", "text")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(1)
    assert_equal(found, expected)


def test_the_cache_built_again_elsewhere_gives_the_same_cell(toys, prepared, tmp_path):
    def build():
        return prepared.info, dict(reversed(prepared.arrays().items()))

    again = cached(tmp_path / "other", "toy", build)
    assert isinstance(again, Prepared) and again.path != prepared.path
    folder, task = toys.cell("vae")
    run_cell(task | {"data": str(again.path)})
    assert_equal(folder, toys.whole("vae"))


@pytest.mark.parametrize("modality", MODALITIES)
def test_another_budget_of_memory_moves_an_evaluation_by_rounding_and_training_not_at_all(modality, toys, monkeypatch):
    monkeypatch.setattr("bench.evaluation.chunking.BUDGET", {"cpu": 2**14})
    found, expected = (outcome(folder) for folder in (toys.run("vae", modality), toys.whole("vae", modality)))
    for part in ("result", "best.pt", "last.pt", "history"):
        assert found[part] == expected[part]
    metrics, before = found["evaluation"]["metrics"], expected["evaluation"]["metrics"]
    assert metrics.keys() == before.keys()
    for name, value in before.items():
        assert metrics[name] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-5)), name


# -- stopped, and gone on with -------------------------------------------------------------------------------------


RUNS = count()


def stopped(monkeypatch, task, at):
    """Begin a task and ask it to stop during its ``at``-th update of this time, inner ones counted, 0 being before
    the first; whether it did."""
    update, updates = TrainingContext.update, 0
    watchdog.stop(at == 0)

    def asks(self, *args, **options):
        nonlocal updates
        updates += 1
        if updates == at:
            watchdog.stop()
        return update(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingContext, "update", asks)
        try:
            run_cell(task | {"run": f"until {next(RUNS)}"})
        except watchdog.Interrupted:
            return True
        finally:
            watchdog.stop(False)
    return False


def stopped_all_the_time(monkeypatch, task, folder):
    """Stop a task after every step, till it is trained, then let it be evaluated; how often that was."""
    times = 0
    while not folder.trained():
        assert stopped(monkeypatch, task, 0), folder.result()
        times += 1
        assert times < 100, "a stop that makes no progress"
    run_cell(task)
    return times


@pytest.mark.parametrize(("expression", "modality"), EVERY)
def test_stopped_at_every_step_it_ends_as_if_never_stopped(expression, modality, toys, monkeypatch):
    """Before and after every validation, within a ramp, while inner loops run."""
    folder, task = toys.cell(expression, modality)
    assert stopped_all_the_time(monkeypatch, task, folder) == TRAIN.epochs * TRAIN.epoch_updates
    assert_equal(folder, toys.whole(expression, modality))


@pytest.mark.parametrize("at", random.Random(0).sample(range(2, 70), 5))
def test_stopped_within_an_inner_loop_of_aggressive_training_it_ends_the_same(at, toys, monkeypatch):
    """Asked at any update of the encoder alone, it ends the step first."""
    folder, task = toys.cell("aggressive")
    assert stopped(monkeypatch, task, at)
    run_cell(task)
    assert folder.result()["resumes"] == 1
    assert_equal(folder, toys.whole("aggressive"))


def phases(self):
    return Phase("first", 0.5), Phase("second", 0.5)


def falling(monkeypatch):
    """Validation as ever, but its ELBO rises and falls, twice: with little patience the learning rate decays."""
    from bench.evaluation.metrics import validate

    numbers = iter([-9.0, -1.0, -2.0, -3.0, -9.0, -4.0, -5.0, -6.0])
    monkeypatch.setattr("bench.training.trainer.validate", lambda *args: validate(*args) | {"elbo": next(numbers)})


LONG = {"epochs": 8, "epoch_updates": 2, "patience": 1, "max_decays": 3, "ramp": 0.25}


@pytest.mark.parametrize("expression", ["aggressive", "vae+anneal"])
def test_stopped_around_phases_and_decays_it_ends_the_same(expression, toys, monkeypatch):
    """Two phases of eight updates each, a ramp at the beginning of both, decays in both, a stop at every step."""
    monkeypatch.setattr(registry.method(expression.split("+")[0]), "phases", phases)
    falling(monkeypatch)
    expected = toys.run(expression, **LONG)
    assert expected.result()["status"] == "ok", expected.result()
    decayed = [(line["phase"], line["lr"]) for line in expected.history()]
    assert {phase for phase, lr in decayed if lr < TRAIN.lr} == {"first", "second"}
    falling(monkeypatch)
    folder, task = toys.cell(expression, **LONG)
    assert stopped_all_the_time(monkeypatch, task, folder) == 16
    assert_equal(folder, expected)


@pytest.mark.parametrize("steps", [3, 4, 5, 9])
@pytest.mark.parametrize("modality", MODALITIES)
def test_from_the_state_before_the_last_it_ends_the_same(modality, steps, toys, monkeypatch):
    """The newest checkpoint is torn; the one before it lies before or after a validation, with its own best weights."""
    folder, task = toys.cell("vae+anneal", modality)
    for _ in range(steps):
        assert stopped(monkeypatch, task, 0)
    (folder.path / "last.pt").write_bytes(b"torn")
    assert (folder.path / "previous.pt").exists()
    run_cell(task)
    assert_equal(folder, toys.whole("vae+anneal", modality))


@pytest.mark.parametrize("expression", ["vae", "sa_vae(steps=2)"])
def test_stopped_between_training_and_its_evaluation_it_ends_the_same(expression, toys, monkeypatch):
    """Asked during the last update: training comes out, and the evaluation is made by the next run."""
    whole = toys.whole(expression)
    last = sum(whole.result()["updates_by_kind"].values())
    folder, task = toys.cell(expression)
    assert stopped(monkeypatch, task, last) and folder.trained() and not folder.evaluation()
    run_cell(task)
    assert_equal(folder, whole)


def test_a_stop_is_asked_of_a_real_trainer(toys, monkeypatch):
    """These tests would hold of a ``stop`` that did nothing: it leaves a state that is not the end."""
    folder, task = toys.cell("vae")
    assert stopped(monkeypatch, task, 5) and not folder.trained()
    state = torch.load(folder.path / "last.pt", weights_only=True)
    assert state["counters"]["step"] == 6 and state["state"]["stopped_by"] is None
