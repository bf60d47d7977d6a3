"""Where a result comes from: commit, versions, machine, command. Not part of a cell's identity."""

from __future__ import annotations

import math
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "pandas", "ray")


def commit() -> str | None:
    """The checkout's commit, ``-dirty`` with local changes; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("-dirty" if run("status", "--porcelain", ".", "../methods") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict:
    """Processor, cores, memory and, where one is used, the GPU."""
    record = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    if memory() < math.inf:
        record["memory_gb"] = round(memory() / 2**30)
    if device == "cuda":
        import torch

        record["gpu"] = torch.cuda.get_device_name()
    return record


def memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command() -> str:
    """The command line, as one would type it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    typed = shlex.join([*program, *sys.argv[1:]])
    return typed.encode(errors="backslashreplace").decode()  # a path may hold bytes that are no text


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
