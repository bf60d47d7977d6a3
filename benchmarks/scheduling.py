"""Compare the throughput of Ray with that of bare processes, on an idle machine.

    python -m benchmarks.scheduling --methods core --dataset synthetic --seeds 2 --rounds 3

Runs the same cells twice in every round, in alternating order: by ``run_tasks`` on Ray, and by one plain Python process
per core, each of which runs every n-th cell in turn. Both are measured from outside, with the start of Python, and
without data preparation and report. Prints cells per hour and the ratio of each round, and the median ratio.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from bench.core.provenance import cores
from bench.core.syntax import split_expressions
from bench.data.cache import cache_dir
from bench.data.registry import data_folder, prepare
from bench.experiment.plan import longest_first, plan
from bench.experiment.presets import load_preset
from bench.experiment.runtime_estimate import estimate
from bench.experiment.session import run_tasks
from bench.experiment.task import CellTask, Resources
from bench.experiment.worker import run_task
from bench.training.expressions import parse_methods, parse_settings


def make_tasks(args: argparse.Namespace, out: Path) -> list[CellTask]:
    """Return the cells, the longest first, with folders under ``out``."""
    settings, overrides = parse_settings(args.set)
    rows, _ = parse_methods(split_expressions(args.methods), args.preset, settings)
    data = prepare(args.dataset, data_folder(None), cache_dir())
    preset = load_preset(args.preset, data.info.modality, overrides, data.info.protocol)
    cells = plan(rows, data.info, preset, args.seeds, 0, "cpu", out)
    cells = longest_first(cells, estimate(cells, preset, data, "cpu", 1))
    shared = Resources().cells_per_device(len(cells))
    return [
        CellTask(cell.config, cell.folder.path, data.path, preset.evaluation, cells_per_device=shared) for cell in cells
    ]


def run_side(args: argparse.Namespace) -> None:
    """Run all cells on Ray, or every n-th one in this process."""
    tasks = make_tasks(args, args.out)
    if args.side == "ray":
        run_tasks(args.out, tasks, Resources(), nullcontext(), print)
    else:
        for task in tasks[int(args.side) :: cores()]:
            run_task(task)


def measure(ray: bool, command: list[str]) -> float:
    """Return the seconds of one side."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        sides = ["ray"] if ray else [str(number) for number in range(cores())]
        processes = [subprocess.Popen([*command, "--out", out, "--side", side]) for side in sides]
        if any(process.wait() for process in processes):
            raise SystemExit("a process failed")
        seconds = time.perf_counter() - began
        done = len([*Path(out).glob("runs/*/*/*/seed-*/evaluation.json")])
    print(
        f"  {'Ray' if ray else 'bare'}: {done} cells in {seconds:.1f} s, {3600 * done / seconds:.1f} per hour",
        flush=True,
    )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="core")
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return run_side(args)
    with tempfile.TemporaryDirectory() as out:
        make_tasks(args, Path(out))  # prepares the data and measures the estimates, which both sides then have
    command = [sys.executable, "-m", "benchmarks.scheduling", *sys.argv[1:]]
    ratios = []
    for number in range(args.rounds):
        print(f"round {number + 1}")
        seconds = {ray: measure(ray, command) for ray in ((True, False) if number % 2 else (False, True))}
        ratios.append(seconds[False] / seconds[True])
    print(f"Ray / bare, cells per hour: median {statistics.median(ratios):.3f}", [round(x, 3) for x in ratios])


if __name__ == "__main__":
    main()
