"""``python -m bench evaluate OUT --metrics …``: add metrics to finished cells, without training."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.cli.options import add_options, check_workers, path
from bench.core.config import suggest
from bench.core.errors import UserError
from bench.evaluation.registry import group_of_metric, metric_groups

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
    p.add_argument("out", type=path, metavar="OUT", help="output folder of a run, or a folder of some of its cells")
    p.add_argument("--metrics", metavar="GROUP,…", help="groups of metrics (default: those of each cell's preset)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="evaluation.iw_samples=500, …")
    add_options(p, "--data-dir", "--executor", "--cpus-per-cell", "--gpus-per-cell")
    p.set_defaults(execute=execute, after_stop="finished cells are stored; the same command resumes", address=None)


def execute(args: argparse.Namespace) -> int:
    check_workers(args)
    groups, overrides = _parse(args.metrics, args.set)
    from bench.cli.progress import make_console
    from bench.cli.stored import run_stored
    from bench.experiment import queries
    from bench.experiment.cell_folder import CellFolder, lock_cell
    from bench.reporting.report import build

    console = make_console()
    log = partial(console.print, markup=False)
    finished = queries.finished_cells([args.out])
    cells = [cell for cell in finished if CellFolder(cell.folder).has_weights()]
    if skipped := len(finished) - len(cells):
        log(f"skipped: {skipped} finished cells without weights (git keeps none)")
    wanted = [(cell, queries.evaluation_of_preset(cell, overrides, groups)) for cell in cells]
    pending = [(cell, config) for cell, config in wanted if config.missing(cell.evaluation)]
    log(f"{len(cells)} finished cells with weights, {len(pending)} of them to evaluate")
    queries.check_device(cell for cell, _ in pending)
    for cell, _ in pending:
        with lock_cell(cell.folder) as free:
            if not free:
                log(f"{cell.folder}: waiting for another run that is using it")
    failed = run_stored(args, args.out, [(cell, config, 1, 1.0) for cell, config in pending], console, training=False)
    for out in sorted({out for cell in finished if (out := queries.output_folder(cell))}):
        place = Path(os.path.relpath(out))
        for report in build(place, log=log):
            log(f"\n{report.text}\n{report.locations(place)}")
    for line in failed:
        log(line)
    return 1 if failed else 0


def _parse(metrics: str | None, settings: Sequence[str]) -> tuple[list[str] | None, dict[str, dict[str, Any]]]:
    """Return the groups of ``--metrics``, None if not given, and the overrides of ``--set`` by section."""
    from bench.training.expressions import parse_settings

    groups = None
    if metrics is not None:
        groups = [name.strip() for name in metrics.split(",") if name.strip()]
        if not groups:
            raise UserError(f"--metrics names no group: give some of {', '.join(metric_groups())}, joined by commas")
        for name in groups:
            if name not in metric_groups():
                owner = group_of_metric().get(name)
                remedy = f"its group is '{owner}'" if owner else suggest(name, metric_groups())
                raise UserError(f"--metrics has no group '{name}': {remedy}")
    methods, overrides = parse_settings(settings)
    if methods or {*overrides} - {"evaluation"}:
        raise UserError("--set changes settings of the evaluation only; 'python -m bench run' trains with others")
    return groups, overrides
