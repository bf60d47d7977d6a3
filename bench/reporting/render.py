"""A table document written as Markdown, LaTeX and plain text. It knows nothing of what the numbers mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bench.experiment.schema import BREAKING as UNSHOWN
from bench.reporting.statistics import Summary

DASH = "–"
LINE, NAME = 130, 24  # characters of a line of plain text, and of a row's name whatever the line


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table: ``text (spread)`` and the letters of its footnotes.

    ``value`` is the number behind it, by which a column can be sorted.
    """

    text: str
    spread: str = ""
    letters: tuple[str, ...] = ()
    best: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Panel:
    """One grid of entries; the first column names the rows. ``caption`` may be empty."""

    caption: str
    columns: list[Entry]
    rows: list[list[Entry]]


@dataclass(frozen=True)
class Verdict:
    """What became of one claim: the evidence in one line, and numbers that only Markdown has room for."""

    id: str
    claim: str
    verdict: str
    evidence: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claims:
    """The verdicts on the claims of one paper, and what is to be said of all of them."""

    title: str
    verdicts: list[Verdict]
    notes: list[str]


@dataclass
class Document:
    """Panels that share their footnotes. ``footnote`` letters them in the order they are asked for.

    ``claims`` stand below all notes, in Markdown and plain text.
    ``reference`` is a panel of numbers from elsewhere; it stands apart, below all notes, in Markdown alone.
    """

    title: str
    label: str
    panels: list[Panel] = field(default_factory=list)
    claims: Claims | None = None
    reference: Panel | None = None
    notes: list[str] = field(default_factory=list)
    footnotes: dict[str, str] = field(default_factory=dict)

    def footnote(self, text: str) -> str:
        """The letter of a footnote: equal texts share one."""
        return self.footnotes.setdefault(text, _letters(len(self.footnotes)))


def number(value: float, digits: int) -> str:
    """Fixed digits, thousands separated, no negative zero; a dash for NaN."""
    if math.isnan(value):
        return DASH
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def difference(value: Summary, digits: int = 2) -> str:
    """A mean difference with its sign and, where there is one, its interval."""
    mean, low, high = (number(each, digits) for each in (value.mean, value.low, value.high))
    return (mean if mean.startswith("-") else f"+{mean}") + (f" [{low}, {high}]" if value.n > 1 else "")


def clean(text: str) -> str:
    """Text of one line, without control characters and those that turn the direction of what comes after."""
    return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def code(text: str) -> str:
    """A name in Markdown's letters for code, in a table too."""
    text = clean(text)
    if "`" in text or "\\" in text:  # neither can be escaped in code
        return escape_markdown(text)
    return f"`{text}`".replace("|", r"\|")


def escape_markdown(text: str) -> str:
    """Text that Markdown, as GitHub renders it, shows as it is."""
    text = re.sub(r"([\\`*|#\[\]<~$])", r"\\\1", clean(text))
    text = re.sub(r"&(?=#?\w+;)", r"\&", text)  # else it would begin an entity
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word an underscore is harmless


def markdown(document: Document) -> str:
    """Markdown as GitHub renders it: pipe tables, bold for the best, footnotes as a list."""

    def entry(item: Entry, name: bool) -> str:
        text = code(item.text) if name else escape_markdown(item.text)
        text = f"**{text}**" if item.best else text
        return _join(text, item, "<sup>{}</sup>")

    def table(panel: Panel) -> list[str]:
        lined, widths = grid(panel, entry)
        rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
        caption = [escape_markdown(panel.caption), ""] if panel.caption else []
        return [*caption, *("| " + " | ".join(cells) + " |" for cells in (lined[0], rule, *lined[1:])), ""]

    lines = [f"### {escape_markdown(document.title)}", ""]
    for panel in document.panels:
        lines += table(panel)
    lines += ["The lowest NLL is in bold.", ""]
    lines += [f"- <sup>{letter}</sup> {escape_markdown(text)}" for text, letter in document.footnotes.items()]
    lines += [f"- {escape_markdown(text)}" for text in document.notes]
    lines += _markdown_claims(document.claims) if document.claims else []
    lines += ["", *table(document.reference)[:-1]] if document.reference else []
    return "\n".join(lines) + "\n"


def _markdown_claims(claims: Claims) -> list[str]:
    lines = ["", f"#### {escape_markdown(claims.title)}", "", "| | claim | verdict | evidence |", "| - | - | - | - |"]
    for each in claims.verdicts:
        evidence = "; ".join((each.evidence, *each.details))
        cells = map(escape_markdown, (each.id, each.claim, each.verdict, evidence))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *(f"- {escape_markdown(note)}" for note in claims.notes)]


def text(document: Document) -> str:
    """Plain text for a terminal: aligned columns, ``*`` at the best, letters in brackets.

    To keep within ``LINE`` the columns' footnotes go by title, and names that are too long have a line of their own.
    """

    def entry(item: Entry, name: bool) -> str:
        return _join(f"*{item.text}" if item.best else item.text, item, "[{}]")

    lines = [document.title, ""]
    titles: dict[str, list[str]] = {}  # of a column's footnote
    for panel in document.panels:
        for item in panel.columns:
            for letter in item.letters:
                titles.setdefault(letter, []).append(item.text)
        lined, widths = grid(replace(panel, columns=[Entry(item.text) for item in panel.columns]), entry)
        names = [row[0].rstrip() for row in lined]
        room = max(NAME, LINE - sum(widths[1:]) - 2 * len(widths) + 2)
        first = max(len(name) for name in names if len(name) <= room)
        rows = []
        for name, (_, *cells) in zip(names, lined, strict=True):
            alone = len(name) > first
            rows += [name] if alone else []
            rows.append("  ".join([("" if alone else name).ljust(first), *cells]).rstrip())
        lines += [panel.caption] if panel.caption else []
        lines += [rows[0], "-" * (first + sum(widths[1:]) + 2 * len(widths) - 2), *rows[1:], ""]
    lines += ["* lowest NLL"]
    for note, letter in document.footnotes.items():
        lines.append(f"{', '.join(titles[letter])}: {note}" if letter in titles else f"[{letter}] {note}")
    lines += document.notes
    if document.claims:
        width = max(len(each.verdict) for each in document.claims.verdicts)
        lines += ["", document.claims.title]
        lines += [
            f"{each.id}  {each.verdict:{width}}  {each.claim}: {each.evidence}" for each in document.claims.verdicts
        ]
        lines += document.claims.notes
    return "\n".join(UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", line.replace("\n", " ")) for line in lines) + "\n"


def grid(panel: Panel, entry: Callable[[Entry, bool], str]) -> tuple[list[list[str]], list[int]]:
    """The panel's cells as strings padded to their columns, the header first, and the columns' widths."""
    rows = [[entry(item, False) for item in panel.columns]]
    rows += [[entry(item, column == 0) for column, item in enumerate(row)] for row in panel.rows]
    widths = [max(2, *map(len, column)) for column in zip(*rows, strict=True)]
    return [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows], widths


def _join(text: str, item: Entry, mark: str) -> str:
    spread = f" ({item.spread})" if item.spread else ""
    return text + spread + (mark.format(",".join(item.letters)) if item.letters else "")


def _letters(index: int) -> str:
    """a … z, aa, ab, …"""
    letters = ""
    while index >= 0:
        letters = chr(ord("a") + index % 26) + letters
        index = index // 26 - 1
    return letters
