"""``python -m bench audit OUT``: train a share of the finished cells with twice the updates, and compare."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

from bench.cli import options
from bench.core.config import suggest
from bench.core.errors import UserError
from bench.core.syntax import split_expressions


def add_parser(commands: Any) -> None:
    """Add the command ``audit`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "audit",
        help="train a share of the cells with twice the updates",
        description="Train a share of the finished cells of each data set and preset again, with twice the updates "
        "at the undecayed learning rate, and report. A cell passes if the selection criterion gains less than "
        "train.tolerance and it is collapsed or not as before. The exit status is 0 if all pass. After an "
        "interruption the same command resumes.",
    )
    p.add_argument("out", type=options.path, metavar="OUT", help="output folder of a run")
    p.add_argument("--share", type=float, default=0.1, metavar="F", help="of the cells, rounded up (default: 0.1)")
    rows = "one cell of each of these rows in every table, instead of a share, for example vae,beta_vae(beta=0.2)"
    group = p.add_mutually_exclusive_group()
    group.add_argument("--rows", default=[], type=split_expressions, metavar="METHODS", help=rows)
    unconverged = "every cell whose last updates gained too much, instead of a share: the audit then decides"
    group.add_argument("--unconverged", action="store_true", help=unconverged)
    options.add_options(p, "--data-dir", "--executor", "--cpus-per-cell", "--gpus-per-cell")
    p.set_defaults(execute=execute, after_stop="finished cells are stored; the same command resumes", address=None)


def execute(args: argparse.Namespace) -> int:
    options.check_workers(args)
    if not 0 < args.share <= 1:
        raise UserError(f"--share must be above 0 and at most 1, not {args.share:g}")
    import pandas as pd

    from bench.cli.progress import make_console
    from bench.cli.stored import run_stored
    from bench.experiment import audit, queries
    from bench.experiment.cell_folder import CellFolder, cell_folders
    from bench.experiment.cell_record import readable
    from bench.experiment.plan import cell_state
    from bench.experiment.schema import Status
    from bench.reporting.report import build

    console = make_console()
    log = partial(console.print, markup=False)
    stored = readable(cell_folders(args.out))[0]
    known = {cell.config.method.expression for cell in stored}
    for row in args.rows:
        if row not in known:
            raise UserError(f"--rows {row}: no cell has this method: {suggest(row, known)}")
    cells = audit.unconverged(stored) if args.unconverged else audit.choose(stored, args.share, args.rows)
    if stored and not cells and args.unconverged:
        log(f"no cell under '{args.out}' has to be audited: the last updates of none gained too much")
        return 0
    if not cells:
        raise UserError(f"no finished cells under '{args.out}' can be audited: give the --out folder of a run")
    work = []
    for cell in sorted(cells, key=lambda cell: -cell.history[-1].seconds):  # the longest first, as in a run
        again, evaluation = audit.unstarted(args.out, cell), replace(queries.evaluation_as_stored(cell), metrics=())
        if cell_state(CellFolder(again.folder), evaluation).status is not Status.DONE:
            updates = again.config.train.epochs * cell.history[0].update
            work.append((again, evaluation, updates, cell.history[-1].seconds))
    log(f"{len(cells)} cells to audit, {len(work)} of them to train")
    queries.check_device(cell for cell, *_ in work)
    options.check_out(args.out / audit.FOLDER)
    failed = run_stored(args, args.out / audit.FOLDER, work, console, training=True)
    audits = [row for report in build(args.out, log=log) for row in report.audits]
    if audits:
        log(f"\n{pd.DataFrame(audits).to_string(index=False, float_format='%.3f')}\n")
    passed = sum(row["passed"] for row in audits)
    log("\n".join([*failed, f"{passed} of {len(audits)} audited cells pass"]))
    return 1 if failed or passed < len(audits) else 0
