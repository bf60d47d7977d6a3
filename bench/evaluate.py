"""``python -m bench.evaluate OUT --metrics …``: measure more of finished cells, without training."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.config import GROUPS
from bench.errors import UserError, exit_status

EPILOG = """\
groups of metrics:
  common       NLL under a proposal refined alike for every method, and what inference loses (gaps)
  convergence  the plain importance-weighted NLL with 50, 500 and 5,000 samples
  use          what the decoder loses when z comes from another example, or from the prior
  probe        how well a linear probe, or a few labels, read the labels from posterior means
  annealed     NLL by annealed importance sampling from there: the yardstick, and the dearest

examples:
  python -m bench.evaluate out --metrics annealed
  python -m bench.evaluate out --metrics common --set evaluation.common_examples=200
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.evaluate",
        description="Fill columns into finished cells without training: groups of metrics that they lack, or have with "
        "other settings. Needs the cells' weights.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("out", type=Path, metavar="OUT", help="folder of a run, or of some of its cells")
    p.add_argument("--metrics", metavar="GROUPS", help="joined by commas (default: those of each cell's preset)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="evaluation.common_examples=200, …")
    p.add_argument("--data-dir", type=Path, help="folder with data sets (default: BENCH_DATA_DIR)")
    p.add_argument("--executor", choices=["ray", "local"], default="ray", help="ray: cells side by side (default)")
    p.add_argument("--cpus-per-cell", type=int, default=1, metavar="N", help="cores and threads (default: 1)")
    p.add_argument(
        "--gpus-per-cell", type=float, default=1.0, metavar="F", help="for cells trained on GPUs (default: 1)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_status(lambda: evaluate(args), "cells that were finished are stored; the same command goes on")


def evaluate(args: argparse.Namespace) -> int:
    from rich.console import Console

    from bench import stored
    from bench.execute import Resources, execute
    from bench.expressions import split_settings
    from bench.progress import Monitor, Watched, reason
    from bench.report import build
    from bench.run import data_folder

    groups = args.metrics and [name.strip() for name in args.metrics.split(",") if name.strip()]
    for name in groups or ():
        if name not in GROUPS:
            raise UserError(f"no group of metrics '{name}': there are {', '.join(GROUPS)}")
    methods, overrides = split_settings(args.set)
    if methods or {*overrides} - {"evaluation"}:
        raise UserError("--set takes settings of the evaluation here: the training of these cells is done")
    console = Console(highlight=False, soft_wrap=True)
    found = stored.cells_at(args.out)
    folders, without = stored.with_weights(found)
    if without:
        console.print(f"left out: {len(without)} finished cells without weights, which git does not keep", markup=False)
    todo = {}
    for folder in folders:
        wanted = stored.evaluation_of_preset(folder, overrides, groups)
        if wanted.missing(folder.evaluation()):
            todo[folder] = wanted
    console.print(f"{len(folders)} finished cells with weights, {len(todo)} of them to evaluate")
    devices = {folder.config["device"] for folder in todo}
    if len(devices) > 1:
        raise UserError("cells of CPU and GPU are mixed here: evaluate them in two runs, each with its folder")
    gpus = args.gpus_per_cell if "cuda" in devices else 0.0
    resources = Resources(args.executor, args.cpus_per_cell, gpus)
    data_dir = data_folder(args)
    tasks = [
        stored.task(folder, wanted, data_dir, args.cpus_per_cell)
        | {"gpu_share": gpus, "shared": resources.sharing(len(todo))}
        for folder, wanted in todo.items()
    ]
    watched = [Watched(f"{folder.path.parent.name} {folder.path.name}", folder, 1, 1.0) for folder in todo]
    if tasks:
        with Monitor(watched, console):
            execute(tasks, resources)
    out = Path(os.path.relpath(stored.out_of(found[0])))
    for report in build(out, log=lambda line: console.print(line, markup=False)):
        console.print(f"\n{report.text}", markup=False)
        console.print(report.places(out), markup=False)
    failed = [folder for folder, wanted in todo.items() if not folder.done(wanted)]
    for folder in failed:
        console.print(f"failed: {folder.path}: {reason(folder.result() or {})}", markup=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
