"""``OUT/*.md`` from the templates ``OUT/*.md.j2``, whose numbers are looked up in the tables of ``OUT``.

In a template, ``stem`` names a table such as ``synthetic-small``, or ``capacity/synthetic-small`` in a folder of
``OUT`` with a report of its own:

- ``tables``                          stems of all tables
- ``title(stem)``                     data, preset and model of a table
- ``rows(stem)``                      rows of ``tables/<stem>.csv``: column -> number, NaN where empty; ``method``
- ``recommended(stem)``               of these, those that keep z, have converged and are not behind in NLL
- ``value(stem, method, column)``     one of these numbers
- ``difference(stem, method)``        the paired difference of the NLL to the baseline, with its 95 % interval
- ``agreement(stem, other)``          how far the rows of two tables agree (``answer.Agreement``)
- ``untuned(stem)``                   row of a tuned table -> the row at its own settings; empty for others
- ``assay(stem)``                     the line of ``tables/<stem>.md`` on the controls
- ``audit(stem)``                     rows of ``tables/audit.csv`` about the table, with ``passed`` 1 or 0
- ``verdicts(stem)``                  id of a claim -> verdict, of ``tables/<stem>.md``; ``claims`` are all claims
- ``published(title, method, metric)``  a number of ``published.csv`` that was compared with the paper
- ``margin``                          nats of NLL: smaller differences are left open by training
- ``number``                          filter: fixed digits, two by default
- ``mi``                              filter: the MI of a row, with marks (``information``)
- ``code``                            filter: a method's name as code
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from bench.core.config import suggest
from bench.core.errors import UserError
from bench.core.files import write_text
from bench.reporting.answer import Agreement, agreement, recommended
from bench.reporting.claims import read_claims
from bench.reporting.groups import CONTROLS, natural
from bench.reporting.render import code, number
from bench.reporting.render import difference as format_difference
from bench.reporting.statistics import MARGIN, NAN, Summary
from bench.reporting.tables import PUBLISHED
from bench.reporting.template import environment

TEMPLATES = "*.md.j2"
AUDIT = "audit"  # stem of the table of audited cells
TRIALS = "-trials"  # what ends the stem of the trials of a tuned table
TEXT = ("method", "title", "family", "table", "settings")  # columns that are not numbers
WIDE = 0.3  # nats between the two estimates of MI
VERDICT = re.compile(r"^\| (\w+) \|(?:\\.|[^|\\])*\| ([^|]*) \|", re.MULTILINE)


def write_pages(out: Path) -> None:
    """Write ``OUT/NAME.md`` of every template ``OUT/NAME.md.j2``."""
    for template in sorted(out.glob(TEMPLATES)):
        write_text(template.with_suffix(""), render(template, out))


def render(template: Path, out: Path) -> str:
    """Return the text of a template whose numbers are looked up in the tables of ``out``.

    It can import macros from the templates there. Raise ``UserError`` for a table, row or column that does not exist,
    and for an error in the template.
    """
    lookup = Lookup(out)
    names = (
        *("tables", "title", "rows", "recommended", "value", "difference"),
        *("agreement", "untuned", "assay", "audit", "verdicts"),
    )
    lookups = {name: getattr(lookup, name) for name in names}
    try:
        templates = environment(template.parent, out)
        templates.filters |= {"number": number, "mi": information, "code": code}
        context = {"claims": read_claims(), "published": published, "margin": MARGIN}
        return templates.get_template(template.name).render(**lookups, **context)
    except (UserError, TemplateError) as error:
        raise UserError(f"{template}: {error}") from error


class Row(dict[str, Any]):
    """A row of a table: column -> number, NaN where empty; ``TEXT`` is text. Another column is an error."""

    def __init__(self, stem: str, record: dict[str, str]):
        super().__init__({name: text if name in TEXT else float(text or NAN) for name, text in record.items()})
        self.stem = stem

    def __missing__(self, column: str) -> Any:
        raise UserError(f"table {self.stem} has no column '{column}': {suggest(column, self)}")


class Lookup:
    """The tables of an output folder, and of those in it that have a report of their own."""

    def __init__(self, out: Path):
        self.out = out
        files = [*out.glob("tables/*.csv"), *out.glob("*/tables/*.csv")]
        files = [file for file in files if file.stem != AUDIT and not file.stem.endswith(TRIALS)]
        self.tables = sorted(((file.parents[1].relative_to(out) / file.stem).as_posix() for file in files), key=natural)

    def title(self, stem: str) -> str:
        """Return the heading of a table: its data, preset and model."""
        return self._file(stem, "md").read_text("utf-8").partition("\n")[0].lstrip("# ")

    def rows(self, stem: str) -> list[Row]:
        """Return the rows of a table, in its order."""
        return _read(self._file(stem, "csv"))

    def recommended(self, stem: str) -> list[Mapping[str, Any]]:
        """Return the rows that keep z, have converged and are not behind in NLL, the cheapest first."""
        return recommended(self.rows(stem))

    def value(self, stem: str, method: str, column: str) -> float:
        """Return the number in a row and column; NaN if it is empty."""
        return float(self._row(stem, method)[column])

    def difference(self, stem: str, method: str, column: str = "nll") -> str:
        """Return the paired difference to the baseline with its sign and 95 % interval."""
        row, name = self._row(stem, method), f"{column}_minus_baseline"
        n, mean, low, high = (row[name + end] for end in ("_n", "", "_low", "_high"))
        return format_difference(Summary(mean, NAN, int(n), low, high))

    def agreement(self, stem: str, other: str) -> Agreement:
        """Return how far the finished methods of two tables agree. Those of a tuned table have other names."""
        names = self.untuned(other)
        rows = {row["method"]: row for row in self.rows(stem) if row["n"] and row["family"] != CONTROLS}
        pairs = ((rows.get(names.get(row["method"], row["method"])), row) for row in self.rows(other) if row["n"])
        return agreement((row, other) for row, other in pairs if row is not None)

    def untuned(self, stem: str) -> dict[str, str]:
        """Return row of a tuned table -> the row at its own settings; an empty dictionary for another table."""
        return {row["method"]: row["settings"] for row in self._trials(stem) if not row["trial"]}

    def assay(self, stem: str) -> str:
        """Return the line on the controls."""
        lines = self._file(stem, "md").read_text("utf-8").splitlines()
        if not (line := next((line for line in lines if line.startswith("Assay ")), "")):
            raise UserError(f"table {stem} has no assay: rebuild it with 'python -m bench report'")
        return line

    def audit(self, stem: str) -> list[Row]:
        """Return the rows on the audited cells of a table."""
        folder, _, name = stem.rpartition("/")
        file = self.out / folder / "tables" / f"{AUDIT}.csv"
        return [row for row in _read(file) if row["table"] == name] if file.exists() else []

    def verdicts(self, stem: str) -> dict[str, str]:
        """Return the verdict on every claim that the table is about."""
        return dict(VERDICT.findall(self._file(stem, "md").read_text("utf-8")))

    def _row(self, stem: str, method: str) -> Row:
        rows = {row["method"]: row for row in self.rows(stem)}
        if method not in rows:
            raise UserError(f"table {stem} has no row '{method}': {suggest(method, rows)}")
        return rows[method]

    def _trials(self, stem: str) -> list[Row]:
        file = self._file(stem, "csv")
        trials = file.with_name(f"{file.stem}{TRIALS}.csv")
        return _read(trials) if trials.exists() else []

    def _file(self, stem: str, suffix: str) -> Path:
        if stem not in self.tables:
            raise UserError(f"no table '{stem}': {suggest(stem, self.tables)}")
        folder, _, name = stem.rpartition("/")
        return self.out / folder / "tables" / f"{name}.{suffix}"


def _read(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [Row(file.stem, record) for record in csv.DictReader(lines)]


def information(row: Mapping[str, Any]) -> str:
    """Return the MI of a row, as a range where its upper estimate is ``WIDE`` higher, and its mark.

    ``*``: mean of the seeds that did not collapse, because only some did. ``†``: not converged in every seed.
    """
    suffix, mark = ("_not_collapsed", "*") if 0 < row["collapsed"] < 1 else ("", "")
    low, high = row[f"mi{suffix}"], row[f"mi_high{suffix}"]
    text = f"{number(low)}–{number(high)}" if high - low > WIDE else number(low)
    return f"{text}{mark}{'†' if row['converged'] < 1 else ''}"


def published(title: str, method: str, metric: str) -> str:
    """Return a published number, as printed in the paper, that was compared with its text."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        records = [record for record in csv.DictReader(file) if record["checked"] == "yes"]
    for record in records:
        if (record["dataset"], record["method"], record["metric"]) == (title, method, metric):
            return record["value"]
    raise UserError(f"published.csv has no checked '{metric}' of '{method}' on '{title}'")
