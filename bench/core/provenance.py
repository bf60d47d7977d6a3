"""Commit, package versions, machine and command of a result. Not part of a cell's identity."""

from __future__ import annotations

import math
import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.core import __version__


@dataclass(frozen=True)
class Machine:
    """The machine that produced a result."""

    system: str
    processor: str
    cores: int | None
    memory_gb: int | None = None
    gpu: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Code, machine and command that produced a result."""

    commit: str | None  # of the checkout, with -dirty after local changes
    versions: dict[str, str]
    machine: Machine
    threads: int
    command: str
    started: str  # UTC, ISO 8601

    @classmethod
    def collect(cls, gpu: str | None, threads: int, command: str) -> Provenance:
        """Return the provenance of what this process computes from now on; ``gpu`` is the name of the GPU, if used."""
        return cls(commit(), versions(), machine(gpu), threads, command, now())


PACKAGES = ("torch", "numpy", "scipy", "pandas", "ray")
THIS_FILE, METHODS = "bench/core/provenance.py", "methods/__init__.py"  # places in a checkout, in git's order


def commit() -> str | None:
    """Return the commit of this checkout, with ``-dirty`` after local changes.

    None if this file is not tracked at its place in a checkout: an installed package, or a copy in another repository.
    """
    try:
        if _git("ls-files", "--full-name", Path(__file__).name, f":/{METHODS}").split() != [THIS_FILE, METHODS]:
            return None
        dirty = _git("status", "--porcelain", "--untracked-files=all", ":/bench", ":/methods")
        return _git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those ``PACKAGES`` whose installation says so."""
    versions = {"python": platform.python_version(), "bench": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def machine(gpu: str | None) -> Machine:
    """Return the description of this machine; ``gpu`` is the name of the GPU, if one is used."""
    memory_gb = round(memory() / 2**30) if memory() < math.inf else None
    return Machine(platform.system(), _processor(), os.cpu_count(), memory_gb, gpu)


def memory() -> float:
    """Return the memory of this machine in bytes; infinity if unknown."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def cores() -> int:
    """Return the number of processor cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command() -> str:
    """Return the command line, quoted for a shell."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    line = shlex.join([*program, *sys.argv[1:]])
    return line.encode(errors="backslashreplace").decode()  # a file name may not be valid UTF-8


def now() -> str:
    """Return the current time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str:
    """Return the output of git in the repository around this file, whatever ``GIT_DIR`` and its kin name."""
    foreign = {key for key in os.environ if key.startswith("GIT_") and not key.startswith(("GIT_CONFIG", "GIT_EXEC"))}
    environment = {key: value for key, value in os.environ.items() if key not in foreign}
    words = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent), *arguments]
    process = subprocess.run(words, env=environment, capture_output=True, timeout=10, check=True)
    return process.stdout.decode(errors="replace").strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
