"""``python -m bench evaluate OUT --metrics …``: add metrics to finished cells, without training."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.validate import check_workers, data_folder
from bench.core.errors import UserError
from bench.evaluation.registry import metric_groups

if TYPE_CHECKING:
    from bench.evaluation.config import EvaluationConfig
    from bench.experiment.cell_folder import CellFolder

EXAMPLES = """\
examples:
  python -m bench evaluate out --metrics ais
  python -m bench evaluate out --set evaluation.refined_iw_examples=200
"""


def add_parser(commands: Any) -> None:
    """Add the command ``evaluate`` to the subparsers ``commands``."""
    groups = "\n".join(
        textwrap.fill(group.summary, 79, initial_indent=f"  {name:12} ", subsequent_indent=" " * 15)
        for name, group in metric_groups().items()
    )
    p = commands.add_parser(
        "evaluate",
        help="add metrics to finished cells, without training",
        description="Evaluate finished cells, from their weights, where a group of metrics is missing\nor has other "
        "settings, and report.",
        epilog=f"groups of metrics:\n{groups}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("out", type=Path, metavar="OUT", help="output folder of a run, or a folder of some of its cells")
    p.add_argument("--metrics", metavar="GROUP,…", help="groups of metrics (default: those of each cell's preset)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="evaluation.iw_samples=500, …")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with data sets (default: BENCH_DATA_DIR)")
    p.add_argument("--executor", choices=["ray", "local"], default="ray", help="ray: cells in parallel (default)")
    p.add_argument("--cpus-per-cell", type=int, default=1, metavar="N", help="cores and threads (default: 1)")
    p.add_argument(
        "--gpus-per-cell", type=float, default=1.0, metavar="F", help="for cells trained on a GPU (default: 1)"
    )
    p.set_defaults(execute=execute, after_stop="finished cells are stored; the same command resumes")


def execute(args: argparse.Namespace) -> int:
    check_workers(args.cpus_per_cell, args.gpus_per_cell)
    groups, overrides = _parse(args.metrics, args.set)
    from bench.cli.progress import make_console
    from bench.experiment import queries
    from bench.experiment.cell_folder import lock_cell
    from bench.experiment.plan import cell_state
    from bench.experiment.schema import Status
    from bench.reporting.report import build

    console = make_console()
    log = partial(console.print, markup=False)
    finished = queries.finished_cells([args.out])
    folders = [folder for folder in finished if folder.has_weights()]
    if skipped := len(finished) - len(folders):
        log(f"skipped: {skipped} finished cells without weights (git keeps none)")
    wanted = {folder: queries.evaluation_of_preset(folder, overrides, groups) for folder in folders}
    pending = {folder: config for folder, config in wanted.items() if config.missing(folder.evaluation())}
    log(f"{len(folders)} finished cells with weights, {len(pending)} of them to evaluate")
    queries.check_device(pending)
    data_dir = data_folder(args.data_dir)
    for folder in pending:
        with lock_cell(folder.path) as free:
            if not free:
                log(f"{folder.path}: waiting for another run that is using it")
    for device in sorted({folder.config.device for folder in pending}):
        cells = {folder: config for folder, config in pending.items() if folder.config.device == device}
        _run(args, cells, args.gpus_per_cell if device == "cuda" else 0.0, data_dir)
    for out in sorted({out for folder in finished if (out := queries.output_folder(folder))}):
        place = Path(os.path.relpath(out))
        for report in build(place, log=log):
            log(f"\n{report.text}\n{report.locations(place)}")
    states = {folder: cell_state(folder, config) for folder, config in pending.items()}
    failed = {folder: state for folder, state in states.items() if state.status is not Status.DONE}
    for folder, state in failed.items():
        log(f"failed: {folder.path}: {state.reason or 'interrupted'}")
    return 1 if failed else 0


def _parse(metrics: str | None, settings: Sequence[str]) -> tuple[list[str] | None, dict[str, dict[str, Any]]]:
    """Return the groups of ``--metrics``, None if not given, and the overrides of ``--set`` by section."""
    from bench.training.expressions import parse_settings

    groups = None
    if metrics is not None:
        groups = [name.strip() for name in metrics.split(",") if name.strip()]
        if not groups or {*groups} - {*metric_groups()}:
            raise UserError(f"--metrics {metrics!r}: give some of {', '.join(metric_groups())}, joined by commas")
    methods, overrides = parse_settings(settings)
    if methods or {*overrides} - {"evaluation"}:
        raise UserError("--set changes settings of the evaluation only: these cells are already trained")
    return groups, overrides


def _run(
    args: argparse.Namespace, cells: Mapping[CellFolder, EvaluationConfig], gpus: float, data_dir: Path | None
) -> None:
    """Evaluate cells of one device."""
    from bench.cli.progress import CellProgress, RunProgress, make_console
    from bench.experiment import queries
    from bench.experiment.session import run_tasks
    from bench.experiment.task import Resources

    resources = Resources(args.executor, args.cpus_per_cell, gpus)
    tasks = [queries.stored_task(cell, config, data_dir, resources, len(cells)) for cell, config in cells.items()]
    progress = [
        CellProgress(f"{folder.path.parent.name} {folder.path.name}", folder, 1, 1.0, config)
        for folder, config in cells.items()
    ]
    console = make_console()
    run_tasks(args.out, tasks, resources, RunProgress(progress, console), partial(console.print, markup=False))
