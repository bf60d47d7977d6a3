"""``python -m bench compare A B``: two output folders row by row, or a run against published results."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.cli.options import path
from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.reporting.comparison import Change, Comparison, Row
    from bench.reporting.render import Entry, Panel

WIDTH = 130  # characters
SHOWN = 8  # differing settings in the line above a table
LEGEND = (
    "≠: significantly different: the 95 % interval of B − A excludes 0, as one in 20 does by chance, or Fisher's exact "
    "test finds that the shares of collapsed seeds differ. n: seeds that are compared as pairs, or A/B if they are "
    "independent; one seed has no interval."
)


def add_parser(commands: Any) -> None:
    """Add the command ``compare`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "compare",
        help="compare the rows of two output folders",
        description="Compare the rows that two output folders share: NLL, MI, collapse and cost in A and B, by how "
        "much they changed, and whether the 95 % interval of B - A excludes 0. Nothing is written.",
    )
    p.add_argument("a", type=path, metavar="A", help="output folder, such as the published results/")
    p.add_argument("b", type=path, metavar="B", help="output folder")
    p.add_argument("--json", action="store_true", help="print JSON instead of tables")
    p.add_argument("--fail-if-different", action="store_true", help="exit with status 1 if a row differs significantly")
    p.set_defaults(execute=execute, after_stop="nothing was changed")


def execute(args: argparse.Namespace) -> int:
    for folder in (args.a, args.b):
        if not folder.is_dir():
            raise UserError(f"no folder '{folder}': give the --out folder of 'python -m bench run'")
    from bench.reporting.comparison import compare

    comparisons = compare(args.a, args.b)
    if args.json:
        print(json.dumps([_record(comparison) for comparison in comparisons], indent=1, ensure_ascii=False))
    else:
        print(f"A: {args.a}\nB: {args.b}\n\n" + "\n".join([*map(_text, comparisons), _wrapped(LEGEND)]))
    changed = any(row.differs for comparison in comparisons for row in comparison.rows)
    return int(args.fail_if_different and changed)


def _record(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON, with null for NaN."""
    record = asdict(comparison)
    for row, entry in zip(comparison.rows, record["rows"], strict=True):
        entry["differs"] = row.differs
    return _without_nan(record)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(comparison: Comparison) -> str:
    """Return a table with what differs in protocol above it and what only one output has below it."""
    from bench.reporting.render import Document, text

    notes = [f"{row.method}: {', '.join(row.notes)}" for row in comparison.rows if row.notes]
    notes += [
        f"only in {name}: {', '.join(methods)}"
        for name, methods in (("A", comparison.only_a), ("B", comparison.only_b))
        if methods
    ]
    notes.append(f"{sum(row.differs for row in comparison.rows)} of {len(comparison.rows)} rows differ significantly.")
    table = text(Document("", "", panels=[_panel(comparison)] if comparison.rows else [])).strip("\n")
    return "\n".join([comparison.stem, _wrapped(_same(comparison)), "", table, *map(_wrapped, notes), ""])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _same(comparison: Comparison) -> str:
    """Return whether the tables have the same data, settings and protocol; if not, in what they differ."""
    if not comparison.differing:
        return "A and B have the same data, settings and protocol."
    names = "; ".join(comparison.differing[:SHOWN])
    more = len(comparison.differing) - SHOWN
    return f"A and B differ in {names}{f'; and {more} more' if more > 0 else ''}: B − A is not a change of the method."


def _panel(comparison: Comparison) -> Panel:
    from bench.reporting.render import Entry, Panel

    nll = "NLL" if comparison.metric == "nll" else "IW-NLL"
    header = ["row", "n", f"{nll} A → B", "B − A", "MI A → B", "B − A", "collapsed", "cost (×)"]
    return Panel("", [Entry(title) for title in header], [_entries(row) for row in comparison.rows])


def _entries(row: Row) -> list[Entry]:
    from bench.reporting.render import DASH, Entry, difference, number

    def values(change: Change) -> str:
        return _arrow(number(value, 2) for value in (change.a, change.b))

    def interval(change: Change) -> str:
        return DASH if math.isnan(change.difference.mean) else _marked(difference(change.difference), change)

    seeds = str(row.paired) if row.paired else "/".join(map(str, row.seeds))
    collapsed = DASH
    if row.collapsed:
        shares = (f"{100 * share:.0f} %" for share in (row.collapsed.a, row.collapsed.b))
        collapsed = _marked(_arrow(shares), row.collapsed)
    texts = [row.method, seeds, values(row.nll), interval(row.nll), values(row.mi), interval(row.mi)]
    return [Entry(text) for text in (*texts, collapsed, _marked(values(row.cost), row.cost))]


def _arrow(values: Iterable[str]) -> str:
    """Return two values, or one if they are equal."""
    return " → ".join(dict.fromkeys(values))


def _marked(text: str, change: Change) -> str:
    return f"{text} ≠" if change.differs else text
