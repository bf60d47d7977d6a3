"""``python -m bench.evaluate OUT --metrics …``: measure more of finished cells, without training."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.core.errors import UserError, exit_status
from bench.evaluation.registry import metric_groups

GROUP_WIDTH = 11  # columns of a group's name in the help

EPILOG = """\
examples:
  python -m bench.evaluate out --metrics ais
  python -m bench.evaluate out --metrics refined_iw --set evaluation.refined_iw_examples=200
"""


def _group_list() -> str:
    return "\n".join(f"  {name:<{GROUP_WIDTH}}  {group.summary}" for name, group in metric_groups().items())


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.evaluate",
        description="Fill columns into finished cells without training: groups of metrics that they lack, or have with "
        "other settings. Needs the cells' weights.",
        epilog=f"metric groups:\n{_group_list()}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("out", type=Path, metavar="OUT", help="folder of a run, or of some of its cells")
    p.add_argument("--metrics", metavar="GROUPS", help="joined by commas (default: those of each cell's preset)")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="evaluation.refined_iw_examples=200, …"
    )
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
    from bench.cli.progress import CellStatus, Monitor, Output
    from bench.cli.validate import check_workers, data_folder
    from bench.experiment import queries as stored
    from bench.experiment.cell_folder import lock_cell
    from bench.experiment.executor import Resources
    from bench.experiment.plan import cell_state
    from bench.experiment.session import run_tasks
    from bench.reporting.report import build
    from bench.training.expressions import parse_settings

    check_workers(args)
    groups = None
    if args.metrics is not None:
        groups = [name.strip() for name in args.metrics.split(",") if name.strip()]
        if not groups or {*groups} - {*metric_groups()}:
            raise UserError(f"--metrics {args.metrics!r}: give some of {', '.join(metric_groups())}, joined by commas")
    methods, overrides = parse_settings(args.set)
    if methods or {*overrides} - {"evaluation"}:
        raise UserError("--set takes settings of the evaluation here: the training of these cells is done")
    console = Output(highlight=False, soft_wrap=True)
    finished = stored.finished_cells([args.out])
    folders = [folder for folder in finished if folder.has_weights()]
    if left := len(finished) - len(folders):
        console.print(f"left out: {left} finished cells without weights, which git does not keep", markup=False)
    wanted = {folder: stored.evaluation_of_preset(folder, overrides, groups) for folder in folders}
    todo = [folder for folder in folders if wanted[folder].missing(folder.evaluation())]
    console.print(f"{len(folders)} finished cells with weights, {len(todo)} of them to evaluate")
    stored.check_device(todo)
    data_dir = data_folder(args)
    for folder in todo:
        with lock_cell(folder.path) as free:
            if not free:
                console.print(f"{folder.path}: another run is at it, waited for", markup=False)
    for device in sorted({folder.config.device for folder in todo}):
        those = [folder for folder in todo if folder.config.device == device]
        gpus = args.gpus_per_cell if device == "cuda" else 0.0
        resources = Resources(args.executor, args.cpus_per_cell, gpus)
        tasks = [
            replace(
                stored.stored_task(folder, wanted[folder], data_dir, args.cpus_per_cell),
                gpu_share=gpus,
                cells_per_device=resources.cells_per_device(len(those)),
            )
            for folder in those
        ]
        watched = [
            CellStatus(f"{folder.path.parent.name} {folder.path.name}", folder, 1, 1.0, wanted[folder])
            for folder in those
        ]
        log = partial(console.print, markup=False)
        run_tasks(args.out, tasks, resources, Monitor(watched, console), log)
    for out in sorted({out for folder in finished if (out := stored.output_folder(folder))}):
        place = Path(os.path.relpath(out))
        for report in build(place, log=lambda line: console.print(line, markup=False)):
            console.print(f"\n{report.text}", markup=False)
            console.print(report.locations(place), markup=False)
    states = {folder: cell_state(folder, wanted[folder]) for folder in todo}
    failed = [folder for folder in todo if states[folder].status != "done"]
    for folder in failed:
        console.print(f"failed: {folder.path}: {states[folder].reason or 'interrupted'}", markup=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
