"""``python -m bench report``: rebuild tables, figures and the page from stored cells, without training."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli.options import path
from bench.core.errors import UserError
from bench.core.syntax import split_expressions


def add_parser(commands: Any) -> None:
    """Add the command ``report`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "report",
        help="rebuild tables, figures and the page from stored cells",
        description="Rebuild every table and figure and the page from stored cells, without training.",
    )
    p.add_argument("out", nargs="?", default="out", type=path, metavar="OUT", help="output folder (default: out)")
    p.add_argument("--to", type=path, metavar="DIR", help="write to this folder instead of OUT, which is only read")
    rows = "rows of tables/*.tex, for example vae,beta_vae(beta=0.2) (default: all, or at most 15 chosen by NLL)"
    p.add_argument("--rows", default=[], type=split_expressions, metavar="METHODS", help=rows)
    p.set_defaults(execute=execute, after_stop="the same command writes the rest")


def execute(args: argparse.Namespace) -> int:
    from bench.core.provenance import cores
    from bench.reporting.report import build

    if not args.out.is_dir():
        raise UserError(f"no folder '{args.out}': give the --out folder of 'python -m bench run'")
    for report in build(args.out, to=args.to, processes=cores(), rows=args.rows):
        print(report.text)
        print(report.locations(args.to or args.out))
    return 0
