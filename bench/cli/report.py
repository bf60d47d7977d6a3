"""``python -m bench.report [OUT]``: rebuild every table, figure and the page from stored cells, without training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError, exit_status


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.report",
        description="Rebuild every table, every figure and the page from the stored cells, without training.",
    )
    p.add_argument("out", nargs="?", default="out", type=Path, metavar="OUT", help="folder of a run (default: out)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_status(lambda: report(args), "run the same command again to write the rest")


def report(args: argparse.Namespace) -> int:
    from bench.core.provenance import cores
    from bench.reporting.report import build

    if not args.out.is_dir():
        raise UserError(f"no folder '{args.out}': give the one that 'python -m bench.run --out' wrote")
    for each in build(args.out, processes=cores()):
        print(each.text)
        print(each.locations(args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
