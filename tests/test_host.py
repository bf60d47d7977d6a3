"""Used as a library, the package leaves the process as it was, and computes the same whatever was set there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor, backends

import bench
from bench.core.cancellation import SIGNALS
from bench.experiment.benchmark import measure, peak_flops, random_data
from bench.experiment.cell_folder import CellFolder
from bench.experiment.factory import build_from_config, load_data, load_trained
from bench.experiment.runtime_estimate import seconds_per_update
from bench.experiment.session import run_tasks
from bench.experiment.task import Resources
from bench.experiment.trained_cell import TrainedCell
from bench.experiment.worker import run_cell
from bench.reporting import report
from bench.training.torch_setup import PRECISIONS, torch_settings
from tests.conftest import EVALUATION, TEXT_TOY, TOY, planner, tasks
from tests.fixtures import make_cells
from tests.host import changed, host_state, torch_state

ROOT = Path(__file__).parents[1]
SHORT = {"epochs": 1, "epoch_updates": 2}
QUICK = replace(EVALUATION, metrics=(), iw_samples=5)


@pytest.fixture(scope="module")
def cells(prepared, text_prepared, tmp_path_factory):
    """An output folder with one finished cell of images and one of texts, and their folders by modality."""
    out, folders = tmp_path_factory.mktemp("stored") / "out", {}
    for data, preset in ((prepared, TOY), (text_prepared, TEXT_TOY)):
        cell = planner(data, preset, out)("vae", replace(preset.train, **SHORT))
        run_cell(tasks(data)(cell, evaluation=QUICK))
        folders[data.info.modality] = cell.folder.path
    return out, folders


@pytest.fixture
def caches(prepared, text_prepared, monkeypatch, tmp_path):
    """Both toy data sets in one cache."""
    for data in (prepared, text_prepared):
        for file in (data.path, data.path.with_suffix(".json")):
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))


@pytest.fixture
def unusual_host() -> Iterator[None]:
    """A process in which everything that can be set differs from its default."""
    settings = [
        (torch.set_default_dtype, torch.get_default_dtype(), torch.float64),
        (torch.set_default_device, None, "meta"),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision(), "medium"),
        (torch.set_deterministic_debug_mode, 0, "error"),
        (lambda value: setattr(backends.cudnn, "benchmark", value), False, True),
        (lambda value: setattr(backends.mkldnn, "enabled", value), True, False),
        (lambda value: matplotlib.rcParams.update({"backend": value, "font.size": 3}), "agg", "svg"),
        (lambda value: np.seterr(**value), np.geterr(), {"all": "raise", "under": "ignore"}),
        *(
            (lambda value, number=number: signal.signal(number, value), signal.getsignal(number), int)
            for number in SIGNALS
        ),
    ]
    with ExitStack() as stack, matplotlib.rc_context():
        for set_value, default, value in settings:
            stack.callback(set_value, default)
            set_value(value)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        random.seed(1), np.random.seed(2), torch.default_generator.manual_seed(3)
        yield


def trained_cell_calls(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return a call of every public member of ``TrainedCell``, by its name."""
    cell = bench.load(folder)
    test, z = cell.data.test[:4], torch.ones(3, cell.model.latent_dim, device="cpu")
    return {
        "read": lambda: TrainedCell.read(folder).model.state_dict(),
        "metrics": lambda: cell.metrics,
        "examples": lambda: cell.examples,
        "data": lambda: bench.load(folder).data.test,
        "tensor": lambda: cell.tensor(test),
        "encode": lambda: cell.encode(test).mean,
        "decode": lambda: cell.decode(z, seed=1),
        "sample": lambda: cell.sample(2, seed=1),
        "iw_nll": lambda: cell.iw_nll(test, samples=5),
    }


def library_calls(cells: tuple[Path, dict[str, Path]], tmp_path: Path, prepared) -> dict[str, Callable[[], Any]]:
    """Return a call of every function that users may call, by name; the results do not depend on the clock."""
    out, folders = cells
    config, trained = CellFolder(folders["image"]).config, CellFolder(folders["image"])
    cell = planner(prepared, TOY, tmp_path)("beta_vae", replace(TOY.train, **SHORT))
    task = tasks(prepared)(cell, evaluation=QUICK)
    calls = {f"{kind} {name}": call for kind in folders for name, call in trained_cell_calls(folders[kind]).items()}
    return calls | {
        "load": lambda: bench.load(folders["image"]).model.state_dict(),
        "diagnose": lambda: bench.diagnose(
            (torch.zeros(200, 2, device="cpu"), torch.zeros(200, 2, device="cpu"))
        ).to_dict(),
        "frame": lambda: bench.frame(out).drop(columns="folder"),
        "report": lambda: [item.text for item in report.build(out, log=str)],
        "build": lambda: build_from_config(config)[1].state_dict(),
        "load trained": lambda: load_trained(trained, config)[1].state_dict(),
        "load data": lambda: load_data(config, prepared.path).test,
        "run": lambda: (
            run_tasks(tmp_path, [task], Resources("local"), nullcontext(), str),
            CellFolder(task.folder).evaluation().metrics,
        )[1],
    }


def measurements(cells: tuple[Path, dict[str, Path]], tmp_path: Path, prepared) -> dict[str, Callable[[], Any]]:
    preset, data = random_data("synthetic:quick", tmp_path)
    config = planner(data, preset, tmp_path)("vae").config
    return {
        "measure": lambda: len(measure(config, data.path, 1, 0.01)),
        "peak": lambda: peak_flops("cpu", 1, "float32") > 0,
        "estimate": lambda: seconds_per_update(preset, data.info, "cpu", 1) > 0,
    }


def comparable(result: Any) -> Any:
    """Return a result as values that == compares bit for bit."""
    if isinstance(result, dict):
        return {name: comparable(value) for name, value in result.items()}
    if isinstance(result, Tensor):
        assert not result.requires_grad and not result.is_inference()
        return str(result.dtype), result.tolist()
    return result.to_csv() if hasattr(result, "to_csv") else result


@pytest.mark.usefixtures("caches", "no_figures")
@pytest.mark.parametrize("functions", [library_calls, pytest.param(measurements, marks=pytest.mark.slow)])
def test_calls_neither_change_the_process_nor_depend_on_it(functions, cells, tmp_path, prepared, request):
    plain = {name: outcome(call) for name, call in functions(cells, tmp_path / "plain", prepared).items()}
    request.getfixturevalue("unusual_host")
    for name, call in functions(cells, tmp_path / "unusual", prepared).items():
        result, state = outcome(call)
        assert (plain[name][1], state) == ({}, {}), name
        assert result == plain[name][0], name


def outcome(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Return the result of a call, and what it changed in the process."""
    before = host_state()
    result = call()
    return comparable(result), changed(before)


@pytest.mark.usefixtures("caches")
def test_calls_from_several_threads_wait_for_each_other(cells):
    cell, before = bench.load(cells[1]["image"]), torch.get_default_dtype()
    images, expected = cell.data.test[:4], cell.encode(cell.data.test[:4]).mean
    torch.set_default_dtype(torch.float64)
    try:
        with ThreadPoolExecutor(4) as pool:
            means = [*pool.map(lambda _: cell.encode(images).mean, range(40))]
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(mean, expected) for mean in means)


def test_a_load_during_another_call_leaves_nothing_of_that_call(cells):
    before = host_state()
    with ThreadPoolExecutor(1) as pool:
        with torch_settings("cpu"):
            loading = pool.submit(bench.load, cells[1]["image"])
            assert not wait([loading], timeout=0.2).done
        assert loading.result().method.name == "vae"
    assert changed(before) == {}


def test_imports_during_a_call_change_nothing():
    """Some libraries add warning filters, or replace hooks, when they are imported."""
    before = host_state()
    with torch_settings("cpu"):
        warnings.simplefilter("ignore")
        sys.excepthook = print
    assert changed(before) == {}


def test_every_public_function_is_called(cells, caches, tmp_path, prepared):
    members = {name for name in vars(TrainedCell) if name[0] != "_"} - TrainedCell.__annotations__.keys()
    names = {*bench.__all__, *(f"{kind} {name}" for kind in ("image", "text") for name in members)}
    assert names <= library_calls(cells, tmp_path, prepared).keys()


@pytest.mark.parametrize(
    "owner, precision",
    [
        (backends, "tf32"),
        (backends.cuda.matmul, "tf32"),
        (backends.cudnn.conv, "ieee"),
        (backends.mkldnn.matmul, "bf16"),
    ],
)
def test_both_ways_to_set_precision_are_restored(owner, precision):
    """torch has old and new settings of precision; after some of the new ones, reading an old one is an error."""
    default = owner.fp32_precision
    owner.fp32_precision = precision
    try:
        before = torch_state()
        with torch_settings("cpu", threads=3):
            assert torch.get_float32_matmul_precision() == "highest" and not backends.cudnn.allow_tf32
            assert {item.fp32_precision for item in PRECISIONS} <= {"none", "ieee"} and torch.get_num_threads() == 3
        assert torch_state() == before
    finally:
        owner.fp32_precision = default


IMPORT_EVERYTHING = """
import importlib, json, os, sys, threading
from pathlib import Path

def state():
    children = Path("/proc/self/task", str(os.getpid()), "children")
    running = children.read_text().split() if children.exists() else []
    return [dict(os.environ), [thread.name for thread in threading.enumerate()], running, os.getcwd()]

before, names = state(), json.loads(sys.stdin.read())
for name in names:
    importlib.import_module(name)
assert state() == before, (before, state())
assert not os.listdir(), os.listdir()
"""


@pytest.mark.slow
def test_imports_start_nothing(tmp_path):
    files = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "bench").rglob("*.py"))]
    names = json.dumps([".".join(path.parts).removesuffix(".__init__") for path in files])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORT_EVERYTHING]
    subprocess.run(command, input=names, text=True, env=environment, cwd=tmp_path, check=True)


def script(folder: Path, text: str) -> str:
    """Return what a script without a ``__main__`` guard prints."""
    (folder / "script.py").write_text(text)
    command, environment = [sys.executable, folder / "script.py"], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=True).stdout


def test_import_is_free(tmp_path):
    loaded = script(tmp_path, "import sys, bench; print({'numpy', 'torch', 'ray', 'pandas'} & {*sys.modules})")
    assert loaded == "set()\n"


def test_script_without_guard_starts_a_process(tmp_path):
    text = "import os; from bench.core.host import run_in_subprocess as run; print(run(os.getpid) != os.getpid())"
    assert script(tmp_path, text) == "True\n"


@pytest.mark.slow
def test_script_without_guard_builds_reports_in_parallel(tmp_path):
    make_cells.write(tmp_path, [make_cells.THREE[1]], seeds=1)
    make_cells.write(tmp_path, [make_cells.TEXTS[1]], seeds=1, dataset=make_cells.TEXT)
    text = f"""
from pathlib import Path
from bench.reporting.report import build
print([report.stem for report in build(Path({str(tmp_path)!r}), processes=2)])
"""
    assert script(tmp_path, text) == "['glyphs-quick', 'reviews-quick']\n"
    assert (tmp_path / "report.html").exists()
