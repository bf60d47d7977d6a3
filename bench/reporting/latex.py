"""A table document as LaTeX: floats that need ``booktabs`` alone and fit a page of ``article``."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from bench.reporting.render import Document, Entry, Panel, grid

LINE, PAGE, ROWS = 345, 44, 36  # points of the text width; lines of tabulars in one float, rows of one tabular
#: Size of type -> width of a character, in points, of Computer Modern.
SIZES = {7: 4.0, 6: 3.7}
TINY = 3.4
SEPARATION = 6  # points between columns
NAME = 32  # characters from which on a row's name is wrapped, at a third of the line


def tables(document: Document) -> str:
    """The first panel, then as many tabulars of the others in a float as a page has room for; notes below each."""
    floats: list[list[tuple[Panel, int]]] = []
    room = 0
    for place, panel in enumerate(document.panels):
        for part, size in _parts(panel):
            lines = 5 + sum(1 + len(row[0].text) // NAME for row in part.rows)
            if lines > room or (place == 1 and len(floats) == 1):
                floats.append([])
                room = PAGE
            floats[-1].append((part, size))
            room -= lines
    return "\n".join(_float(document, number, parts) for number, parts in enumerate(floats))


def _float(document: Document, number: int, parts: list[tuple[Panel, int]]) -> str:
    title = f"{document.title}, continued." if number else f"{document.title}. Lowest NLL in bold."
    label = re.sub(r"[^A-Za-z0-9.:+=-]", "-", document.label) + (f"-{number + 1}" if number else "")
    lines = [r"\begin{table}[tbp]", rf"\centering\scriptsize\setlength{{\tabcolsep}}{{{SEPARATION / 2:g}pt}}"]
    lines += [r"\hyphenpenalty10000", rf"\caption{{{escape(title)}}}", rf"\label{{tab:{label}}}"]
    for part, size in parts:
        lines += [r"\par\medskip"] + ([escape(part.caption) + r"\par\smallskip"] if part.caption else [])
        lines += _tabular(part, size)
    rows = [row for part, _ in parts for row in (part.columns, *part.rows)]
    used = {letter for row in rows for item in row for letter in item.letters}
    notes = [(letter, text) for text, letter in document.footnotes.items() if letter in used]
    lines += [r"\par\medskip\raggedright\tiny"]
    lines += [rf"\textsuperscript{{{letter}}}{escape(text)}." for letter, text in notes]
    lines += [] if number else [r"\par", *map(escape, document.notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _parts(panel: Panel) -> list[tuple[Panel, int]]:
    """The panel in the largest type that fits a line; where none does, in parts that do, each with the rows' names.

    No part has more rows than a page.
    """
    columns = list(zip(panel.columns, *panel.rows, strict=True))
    widths = {
        size: [min(LINE / 3, _width(columns[0], size)), *(_width(each, size) for each in columns[1:])] for size in SIZES
    }
    size = next((size for size in SIZES if sum(widths[size]) <= LINE), max(SIZES))
    name, *others = widths[size]
    limit = LINE - name
    while limit > 10 and len(_split(others, limit - 10)) == len(_split(others, LINE - name)):  # parts alike in width
        limit -= 10
    parts: list[tuple[Panel, int]] = []
    for first, last in _split(others, limit):
        head, *body = zip(columns[0], *columns[first + 1 : last + 1], strict=True)
        for start in range(0, max(1, len(body)), ROWS):
            caption = "" if parts else panel.caption
            parts.append((Panel(caption, list(head), [list(row) for row in body[start : start + ROWS]]), size))
    return parts


def _split(widths: list[float], limit: float) -> list[tuple[int, int]]:
    """Ranges of neighbours whose widths add up to at most ``limit``, or that are one."""
    starts, room = [0], limit
    for place, width in enumerate(widths):
        if width > room and place > starts[-1]:
            starts.append(place)
            room = limit
        room -= width
    return [*pairwise([*starts, len(widths)])]


def _width(column: tuple[Entry, ...], size: int) -> float:
    """Points that a column takes, separation and all."""

    def width(item: Entry) -> float:
        large, bracket, interval = item.text.partition(" [")
        tiny = len(bracket + interval) + len(",".join(item.letters)) + (len(item.spread) + 3 if item.spread else 0)
        return len(large) * SIZES[size] * (1.15 if item.best else 1) + tiny * TINY

    return max(width(item) for item in column) + SEPARATION


def _tabular(panel: Panel, size: int) -> list[str]:
    cells, _ = grid(panel, _entry)
    rows = [" & ".join(row).rstrip() + r" \\" for row in cells]
    names = "l" if max(len(row[0].text) for row in panel.rows) < NAME else r"p{0.3\linewidth}"
    shape = names + "r" * (len(panel.columns) - 1)
    lines = [rf"{{\fontsize{{{size}}}{{{size + 1}}}\selectfont", rf"\begin{{tabular}}{{{shape}}}", r"\toprule"]
    return [*lines, rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}\par\smallskip}"]


def _entry(item: Entry, name: bool) -> str:
    """Interval and spread in small type, for the mean is what is read first."""
    large, bracket, interval = item.text.partition(" [") if not name else (item.text, "", "")
    large, interval = (re.sub(r"(?<![\w)-])([-+])(?=\d)", r"$\1$", escape(each)) for each in (large, interval))
    text = rf"\textbf{{{large}}}" if item.best else large
    text += rf" {{\tiny [{interval}}}" if bracket else ""
    text += rf" {{\tiny ({escape(item.spread)})}}" if item.spread else ""
    return text + (rf"\textsuperscript{{{','.join(item.letters)}}}" if item.letters else "")


CHARACTERS = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "−": "$-$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "‖": r"$\Vert$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "→": r"$\to$",
    "·": r"$\cdot$",
    "²": "$^2$",
    "√": r"$\surd$",
    "Δ": r"$\Delta$",
    "∼": r"$\sim$",
}


def escape(text: str) -> str:
    return "".join(map(_character, " ".join(text.split())))


def _character(character: str) -> str:
    if character in CHARACTERS:
        return CHARACTERS[character]
    if character.isascii():
        return character if character.isprintable() else "?"
    name = unicodedata.name(character, "?")
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name):
        letter = greek[2].lower().replace("lamda", "lambda")
        return rf"$\{letter if greek[1] == 'SMALL' else letter.title()}$"
    # What pdflatex cannot set would stop the document.
    return character if "LATIN" in name else "?"
