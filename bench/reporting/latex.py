"""Tables as LaTeX floats that fit into the text of a plain ``article``. They need ``booktabs`` only.

``main`` is one table for a paper, ``appendix`` all panels and notes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap

from bench.reporting.render import BEST, Document, Entry, Panel

MAX_NOTES = 4  # of the table for a paper
MAX_LINES = 45  # in a float
TEXT_WIDTH = 345.0  # points: of an article in 10 pt
FONT, COLUMN_SEPARATION = 7.0, 3.0  # points: \scriptsize, \tabcolsep
MIN_NAME = 100.0  # points for the names of rows
#: Characters that pdflatex does not print as they are. Latin letters with accents need no entry.
CHARACTERS = {character: "\\" + character for character in "&%$#_{}"}
CHARACTERS |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
CHARACTERS |= {"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", "–": "--", "—": "---"}
CHARACTERS |= {"…": r"\dots{}", "§": r"\S{}", "‘": "`", "’": "'", "“": "``", "”": "''", "½": r"$\frac12$"}
CHARACTERS |= {"×": r"$\times$", "−": "$-$", "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$"}
CHARACTERS |= {"∞": r"$\infty$", "‖": r"$\Vert$", "→": r"$\to$", "←": r"$\leftarrow$", "·": r"$\cdot$", "√": r"$\surd$"}
CHARACTERS |= {"∼": r"$\sim$", "≠": r"$\ne$", "∝": r"$\propto$", "∂": r"$\partial$", "∇": r"$\nabla$", "°": r"$^\circ$"}
CHARACTERS |= {"⟨": r"$\langle$", "⟩": r"$\rangle$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "ε": r"$\epsilon$"}
CHARACTERS |= {digit: f"$^{{{i}}}$" for i, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_GREEK = "alpha beta gamma delta eta theta kappa lambda mu nu pi rho sigma tau phi"
CHARACTERS |= dict(zip("αβγδηθκλμνπρστφ", (f"$\\{name}$" for name in _GREEK.split()), strict=True))
#: Widths of characters in em of the text font, from above.
NARROW, WIDE = " .,:;|[]()'!/-fijlrt", "mwMW=+−×%Δ…—@&"


def escape(text: str) -> str:
    """Return text in one line that LaTeX prints as it is; other alphabets become their nearest ASCII, or ``?``."""
    return "".join(map(_escape, " ".join(text.split())))


def _escape(character: str) -> str:
    if character in CHARACTERS:
        return CHARACTERS[character]
    if ord(character) < 0x180:  # ASCII, Latin-1 and Latin Extended-A
        return character
    if unicodedata.combining(character):
        return ""
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(CHARACTERS.get(each, each) for each in plain) or "?"


def main(document: Document) -> str:
    """Return the table for a paper with its most frequent footnotes; empty without rows."""
    if document.paper is None:
        return ""
    panel = document.paper
    counts = Counter(letter for row in panel.rows for entry in row for letter in entry.letters)
    letters = {old: new for (old, _), new in zip(counts.most_common(MAX_NOTES), "abcd", strict=False)}
    rows = [[_relettered(entry, letters) for entry in row] for row in panel.rows]
    notes = {letters[letter]: text for text, letter in document.footnotes.items() if letter in letters}
    sentences = [f"{document.title}.", f"ΔNLL: {document.definitions.get('ΔNLL', 'difference to the baseline')}."]
    sentences += (
        [f"Bold: {BEST}."]
        if document.has_best
        else []
        if document.assay.startswith("Assay valid")
        else [document.assay]
    )
    return "\n".join(_floats(replace(panel, rows=rows), sentences, _label(document), dict(sorted(notes.items()))))


def appendix(document: Document) -> str:
    """Return every panel with its footnotes and the definitions of its columns, and the notes as text."""
    parts: list[str] = []
    for index, panel in enumerate(document.panels):
        used = {letter for row in panel.rows for entry in row for letter in entry.letters}
        notes = {letter: text for text, letter in document.footnotes.items() if letter in used}
        headings = [column.text for column in panel.columns]
        definitions = [f"{name}: {document.definitions[name]}." for name in headings if name in document.definitions]
        sentences = [f"{document.title}.", f"{panel.caption or 'All rows'}."]
        parts += _floats(panel, sentences, f"{_label(document)}-appendix-{index + 1}", notes, definitions)
    texts = [document.assay, *document.notes] if document.assay else document.notes
    parts.append("".join(f"\\par\\noindent{{\\scriptsize\\sloppy {escape(text)}\\par}}\n" for text in texts))
    return "\n".join(parts)


def _label(document: Document) -> str:
    return "tab:" + re.sub(r"[^A-Za-z0-9.:+=-]", "-", document.label)


def _relettered(entry: Entry, letters: Mapping[str, str]) -> Entry:
    return replace(entry, letters=tuple(sorted(letters[letter] for letter in entry.letters if letter in letters)))


def _floats(
    panel: Panel,
    sentences: Sequence[str],
    label: str,
    notes: Mapping[str, str],
    definitions: Collection[str] = (),
) -> Iterator[str]:
    """Yield the panel as one float, or as several if it is too wide or too long for a page."""
    for part, piece in enumerate(_pieces(panel)):
        room = _room(piece)
        lines = [
            r"\begin{table}[tbp]",
            r"\centering\sloppy\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{' '.join(map(escape, sentences))}{' (continued)' if part else ''}}}",
            rf"\label{{{label}{f'-{part + 1}' if part else ''}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(piece.columns) - 1)}}}",
            r"\toprule",
            *_lines(piece.columns, room),
            r"\midrule",
            *(line for row in piece.rows for line in _lines(row, room)),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        if not part and (notes or definitions):
            lines.append(r"\par\medskip\raggedright\tiny")
            lines += [rf"\textsuperscript{{{letter}}}{escape(text)}." for letter, text in notes.items()]
            lines += map(escape, definitions)
        yield "\n".join([*lines, r"\end{table}", ""])


def _pieces(panel: Panel) -> Iterator[Panel]:
    """Yield parts of a panel that are neither too wide nor too long for a page; every part has the names."""
    groups: list[list[int]] = [[]]
    for j in range(1, len(panel.columns)):
        if groups[-1] and MIN_NAME + sum(_column_width(panel, i) for i in (*groups[-1], j)) > TEXT_WIDTH:
            groups.append([])
        groups[-1].append(j)
    for columns in groups:
        rows = [[row[i] for i in (0, *columns)] for row in (panel.columns, *panel.rows)]
        part = Panel(panel.caption, rows[0], rows[1:])
        room, start, count = _room(part), 0, 0
        for end, row in enumerate(part.rows):
            length = len(_lines(row, room))
            count += length
            if count > MAX_LINES and end > start:
                yield replace(part, rows=part.rows[start:end])
                start, count = end, length
        yield replace(part, rows=part.rows[start:])


def _column_width(panel: Panel, j: int) -> float:
    """Return the width of a column in points with its separation, from above."""
    return max(width(_plain(row[j])) for row in (panel.columns, *panel.rows)) + 2 * COLUMN_SEPARATION


def _plain(entry: Entry) -> str:
    return entry.text + (f" ({entry.spread})" if entry.spread else "") + ",".join(entry.letters)


def width(text: str) -> float:
    """Return the width of a text in points, from above: 1.14 em of Computer Modern at 7 pt are 1 em at 10 pt."""
    em = sum(0.4 if c in NARROW else 1.03 if c in WIDE else 0.79 if c.isupper() else 0.56 for c in text)
    return 1.14 * FONT * em


def _room(panel: Panel) -> float:
    """Return the points that the other columns leave for names."""
    return TEXT_WIDTH - sum(_column_width(panel, j) for j in range(1, len(panel.columns))) - 2 * COLUMN_SEPARATION


def _lines(row: Sequence[Entry], room: float) -> list[str]:
    """Return the lines of a row: a name that is too wide is broken, with the numbers in the last line."""
    name, *values = row
    texts, unbroken = [name.text], name.text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    for characters in range(len(name.text), 8, -1):
        texts = wrap(unbroken, characters, break_on_hyphens=False)
        if max(map(width, texts)) + width(",".join(name.letters)) <= room:
            break
    first = [rf"{escape(text)} \\" for text in texts[:-1]]
    return [*first, " & ".join(map(_entry, (replace(name, text=texts[-1]), *values))) + r" \\"]


def _entry(entry: Entry) -> str:
    text = re.sub(r"(?<![\w)-])([-+])(?=\d)", r"$\1$", escape(entry.text))  # signs, not hyphens
    text = rf"\textbf{{{text}}}" if entry.best else text
    text += f" ({escape(entry.spread)})" if entry.spread else ""
    return text + (rf"\textsuperscript{{{','.join(entry.letters)}}}" if entry.letters else "")
