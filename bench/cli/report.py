"""``python -m bench report``: rebuild tables, figures and the page from stored cells, without training."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli.options import path
from bench.core.errors import UserError


def add_parser(commands: Any) -> None:
    """Add the command ``report`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "report",
        help="rebuild tables, figures and the page from stored cells",
        description="Rebuild every table and figure and the page from stored cells, without training.",
    )
    p.add_argument("out", nargs="?", default="out", type=path, metavar="OUT", help="output folder (default: out)")
    p.add_argument("--to", type=path, metavar="DIR", help="write to this folder instead of OUT, which is only read")
    p.set_defaults(execute=execute, after_stop="the same command writes the rest")


def execute(args: argparse.Namespace) -> int:
    from bench.core.provenance import cores
    from bench.reporting.report import build

    if not args.out.is_dir():
        raise UserError(f"no folder '{args.out}': give the --out folder of 'python -m bench run'")
    for report in build(args.out, to=args.to, processes=cores()):
        print(report.text)
        print(report.locations(args.to or args.out))
    return 0
