"""A table document, and its Markdown and plain text. It has the layout of tables, not the meaning of the numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.reporting.statistics import MARGIN, Summary
from bench.reporting.template import template

DASH = "–"
BEST = (
    "not significantly above the lowest NLL, controls aside: the 95 % interval of the paired difference contains 0 "
    f"and ends below {MARGIN:g} nats"
)
LARGE = 1e9
LINE_WIDTH, NAME_WIDTH = 130, 24  # characters of plain text: of a line, and of a row's name at least
NOT_TESTED = "not tested"  # verdict on a claim whose rows are missing


@dataclass(frozen=True)
class Entry:
    """One table cell: ``text (spread)`` and the letters of its footnotes.

    ``value`` is the number to sort by, None for text and missing numbers.
    """

    text: str
    spread: str = ""
    letters: tuple[str, ...] = ()
    best: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Panel:
    """A grid of entries; the first column names the rows. ``caption`` may be empty."""

    caption: str
    columns: list[Entry]
    rows: list[list[Entry]]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim: the evidence in one line, and details that plain text leaves out."""

    verdict: str
    evidence: str
    details: tuple[str, ...] = ()
    id: str = ""
    claim: str = ""


@dataclass(frozen=True)
class Claims:
    """The verdicts on the claims of one paper, and notes on all of them."""

    title: str
    verdicts: list[Verdict]
    notes: list[str]


@dataclass
class Document:
    """The panels of one group with their footnotes (text -> letter), notes, and verdicts on a paper's claims.

    ``assay`` says in one line whether the controls passed, ``answer`` what the table says. ``definitions`` are those of
    columns by heading, ``paper`` is the table for a paper, and ``reference`` a panel of published numbers, printed
    last, in Markdown and on the page only.
    """

    title: str
    label: str
    assay: str = ""
    answer: str = ""
    panels: list[Panel] = field(default_factory=list)
    paper: Panel | None = None
    claims: Claims | None = None
    reference: Panel | None = None
    notes: list[str] = field(default_factory=list)
    footnotes: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)

    @property
    def has_best(self) -> bool:
        """Whether an entry is marked as the best."""
        return any(entry.best for panel in self.panels for row in panel.rows for entry in row)

    def footnote(self, text: str) -> str:
        """Return the letter of a footnote; equal texts share one."""
        return self.footnotes.setdefault(text, _letters(len(self.footnotes)))

    def letters(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the letters of footnotes, without repetition."""
        return tuple(self.footnote(text) for text in dict.fromkeys(texts))

    def define(self, heading: str, text: str) -> None:
        """Add the definition of a column, if it has one."""
        if text:
            self.definitions.setdefault(heading, text)


def number(value: float, digits: int = 2) -> str:
    """Format with fixed digits and thousands separators, without negative zero; a dash for NaN.

    Numbers from ``LARGE`` on have an exponent.
    """
    if math.isnan(value):
        return DASH
    if abs(value) >= LARGE:
        return f"{value:.{digits}e}"
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def with_interval(value: Summary) -> str:
    """Format a mean with two digits and its 95 % interval, if there is one."""
    mean, low, high = (number(part, 2) for part in (value.mean, value.low, value.high))
    return mean + (f" [{low}, {high}]" if value.n > 1 else "")


def difference(value: Summary) -> str:
    """Format a mean difference with its sign and its 95 % interval, if there is one."""
    text = with_interval(value)
    return text if text.startswith("-") else f"+{text}"


def code(text: str) -> str:
    """Return a name as Markdown code that is valid in a table."""
    text = " ".join(text.split())
    if "`" in text or "\\" in text:  # neither can be escaped in code
        return escape_markdown(text)
    return f"`{text}`".replace("|", r"\|")


def escape_markdown(text: str) -> str:
    """Return text in one line that GitHub's Markdown shows as it is."""
    text = re.sub(r"([\\`*|#\[\]<~$])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"&(?=#?\w+;)", r"\&", text)  # entities
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # an underscore inside a word is literal


def markdown(document: Document) -> str:
    """Return the document in GitHub's Markdown: pipe tables, bold for the best, footnotes as a list."""
    return template("tables.md").render(document=document, best=BEST, escape=escape_markdown, table=_markdown_table)


def _markdown_table(panel: Panel) -> str:
    def entry(item: Entry, is_name: bool) -> str:
        text = code(item.text) if is_name else escape_markdown(item.text)
        return _append(f"**{text}**" if item.best else text, item, "<sup>{}</sup>")

    (header, *rows), widths = _pad(panel, entry)
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def text(document: Document) -> str:
    """Return plain text for a terminal: aligned columns, ``*`` at the best, footnote letters in brackets."""
    lines = [document.title, *filter(None, (document.assay, document.answer)), ""]
    for panel in document.panels:
        lines += [*([panel.caption] if panel.caption else []), *_text_table(panel), ""]
    lines += [f"* {BEST}"] if document.has_best else []
    lines += [f"[{letter}] {note}" for note, letter in document.footnotes.items()]
    lines += [*document.notes, *(f"{heading}: {text}" for heading, text in document.definitions.items())]
    if document.claims:
        tested = [verdict for verdict in document.claims.verdicts if verdict.verdict != NOT_TESTED]
        others = [verdict.id for verdict in document.claims.verdicts if verdict.verdict == NOT_TESTED]
        lines += ["", document.claims.title]
        lines += [f"{verdict.id}  {verdict.verdict:21}  {verdict.claim}: {verdict.evidence}" for verdict in tested]
        lines += [f"{', '.join(others)}: {NOT_TESTED}; the Markdown table says what is missing"] if others else []
        lines += document.claims.notes if tested else []
    return "\n".join(line.replace("\n", " ") for line in lines) + "\n"


def _text_table(panel: Panel) -> list[str]:
    """Return aligned rows; a name that would make them longer than ``LINE_WIDTH`` gets a line of its own."""
    cells, widths = _pad(panel, lambda item, _: _append(f"*{item.text}" if item.best else item.text, item, "[{}]"))
    names = [row[0].rstrip() for row in cells]
    available = max(NAME_WIDTH, LINE_WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    width = max(len(name) for name in names if len(name) <= available)
    rows = []
    for name, (_, *values) in zip(names, cells, strict=True):
        rows += [name] if len(name) > width else []
        rows.append("  ".join([("" if len(name) > width else name).ljust(width), *values]).rstrip())
    rule = "-" * (width + sum(widths[1:]) + 2 * (len(widths) - 1))
    return [rows[0], rule, *rows[1:]]


def _pad(panel: Panel, entry: Callable[[Entry, bool], str]) -> tuple[list[list[str]], list[int]]:
    """Return the cells of a panel as strings padded to their columns, header first, and the column widths."""
    rows = [[entry(item, False) for item in panel.columns]]
    rows += [[entry(item, column == 0) for column, item in enumerate(row)] for row in panel.rows]
    widths = [max(2, *map(len, column)) for column in zip(*rows, strict=True)]
    return [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows], widths


def _append(text: str, item: Entry, mark: str) -> str:
    """Append the spread and the footnote letters of an entry to its text."""
    spread = f" ({item.spread})" if item.spread else ""
    return text + spread + (mark.format(",".join(item.letters)) if item.letters else "")


def _letters(index: int) -> str:
    """Return a … z, aa, ab, …"""
    letters = ""
    while index >= 0:
        letters = chr(ord("a") + index % 26) + letters
        index = index // 26 - 1
    return letters
