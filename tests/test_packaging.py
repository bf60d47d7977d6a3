"""The packages as a checkout, a wheel and an editable installation, next to folders of any name."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path

import pytest

import bench
from bench.training import registry

ROOT = Path(__file__).parents[1]
COUNT = "from bench.training.registry import method_names; print(len(method_names()))"
SMALL = {
    "train": {"epochs": 1, "epoch_updates": 2, "batch_size": 10, "val_examples": 10},
    "evaluation": {"test_examples": 10, "iw_samples": 2, "metrics": "latent_use", "latent_use_examples": 2},
    "model": {"image_size": 7, "features": 8, "encoder_channels": "4,4", "decoder_channels": 6},
}


def run(*words: object, **options) -> str:
    process = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def settings(sections: dict[str, dict[str, object]]) -> list[str]:
    """Return options ``--set`` for settings by section."""
    pairs = [f"{section}.{name}={value}" for section, items in sections.items() for name, value in items.items()]
    return [word for pair in pairs for word in ("--set", pair)]


def occupy(folder: Path) -> Path:
    """Make ``folder`` with files that have the names of packages and modules of this project; none can be imported."""
    for place in ("methods", "methods/parts", "bench", "bench/methods", "bench/core", "tests", "results", "core"):
        (folder / place).mkdir(parents=True)
        (folder / place / "vae.py").write_text("raise SystemExit('of the user')")
    for name in ("methods.py", "core.py", "data.py", "run.py", "bench/method.py", "methods/__init__.py"):
        shutil.copy(folder / "bench" / "vae.py", folder / name)
    return folder


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for package in ("bench", "methods") for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_methods_of_a_checkout_are_its_own(tmp_path):
    """In a folder with the same names, and with what another version has left in ``bench/methods``."""
    cwd, copy = occupy(tmp_path / "cwd"), tmp_path / "copy"
    for package in ("bench", "methods"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "bench" / "methods" / "__pycache__").mkdir(parents=True)
    for path in (ROOT, copy):
        environment = os.environ | {"PYTHONPATH": str(path)}
        count = len([*path.glob("methods/[!_]*.py")])
        assert int(run(sys.executable, "-c", COUNT, cwd=cwd, env=environment)) == count


def test_a_checkout_adds_no_packages_but_methods():
    assert [find_spec(f"bench.{name}") for name in ("bench", "tests", "docs")] == [None] * 3
    assert Path(find_spec("bench.methods").origin).parent.name == "methods" and bench.methods.__path__


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packaging") / "source"
    run("git", "clone", "-q", ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", source.parent, source)
    (wheel,) = source.parent.glob("*.whl")
    return wheel


@pytest.fixture(params=["wheel", "editable"])
def installed(request, source, wheel, tmp_path) -> Path:
    """The programs of a virtual environment with this project; its libraries are those of the tests."""
    venv.create(tmp_path / "venv")
    programs, libraries = tmp_path / "venv" / "bin", next((tmp_path / "venv").glob("lib/*/site-packages"))
    (libraries / "libraries.pth").write_text(get_path("purelib"))
    what = [wheel] if request.param == "wheel" else ["--no-build-isolation", "-e", source]
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    run(*pip, "install", "-q", "--no-deps", "--no-index", *what)
    return programs


@pytest.mark.slow
def test_wheel_contains_every_file_of_bench_and_methods(source, wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", "bench", "methods", cwd=source).split()
    assert files == {name.replace("methods/", "bench/methods/", 1) for name in tracked}


@pytest.mark.slow
def test_an_installation_runs_next_to_folders_of_any_name(installed, tmp_path):
    """Also on Ray, and as a program also next to a package ``bench`` and modules with names of the standard library."""
    cwd, environment = occupy(tmp_path / "cwd"), {**os.environ}
    environment.pop("PYTHONPATH", None)
    arguments = ["run", "--methods", "vae", *settings(SMALL)]
    for command in ([installed / "python", "-m", "bench"], [installed / "posterior-collapse-bench"]):
        printed = run(*command, "list", "methods", cwd=cwd, env=environment).splitlines()
        assert len(printed) == 1 + len(registry.method_names())
    run(installed / "python", "-m", "bench", *arguments, "--out", "a", cwd=cwd, env=environment)
    for name in ("bench/__init__.py", "types.py", "queue.py", "numpy.py"):
        shutil.copy(cwd / "methods.py", cwd / name)
    run(installed / "posterior-collapse-bench", *arguments, "--out", "b", cwd=cwd, env=environment)
