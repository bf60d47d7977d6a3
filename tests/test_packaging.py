"""The wheel: every module and data file, and no other top-level package than ``bench``."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    inits = [path for folder in ("bench", "methods") for path in (ROOT / folder).rglob("__init__.py")]
    names = [".".join(path.parent.relative_to(ROOT).parts) for path in inits]
    assert sorted(listed) == sorted(f"bench.{name}" if name.startswith("methods") else name for name in names)


@pytest.mark.slow
def test_wheel_contains_every_file_of_bench_and_methods(tmp_path):
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "bench", "methods"], cwd=source, capture_output=True, text=True)
    assert files == {name.replace("methods/", "bench/methods/", 1) for name in tracked.stdout.split()}
