"""A table document as LaTeX: one ``table`` float with a booktabs ``tabular`` per panel. Needs ``booktabs`` only."""

from __future__ import annotations

import re

from bench.reporting.render import Document, Entry, Panel

#: Characters that pdflatex does not print as they are. Letters with accents need no entry.
CHARACTERS = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "–": "--", "—": "---", "…": r"\dots{}"}
    | {"×": r"$\times$", "−": "$-$", "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "∞": r"$\infty$"}
    | {"‖": r"$\Vert$", "→": r"$\to$", "·": r"$\cdot$", "²": "$^2$", "√": r"$\surd$", "∼": r"$\sim$"}
    | {"α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "Δ": r"$\Delta$", "ε": r"$\epsilon$"}
    | {"λ": r"$\lambda$", "μ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$", "φ": r"$\phi$", "θ": r"$\theta$"}
)


def tables(document: Document) -> str:
    """Return one float per panel, each with its footnotes; the notes follow the first panel."""
    return "\n".join(_float(document, index, panel) for index, panel in enumerate(document.panels))


def escape(text: str) -> str:
    """Return text in one line that LaTeX prints as it is."""
    return " ".join(text.split()).translate(CHARACTERS)


def _float(document: Document, index: int, panel: Panel) -> str:
    label = re.sub(r"[^A-Za-z0-9.:+=-]", "-", document.label) + (f"-{index + 1}" if index else "")
    letters = {letter for row in (panel.columns, *panel.rows) for entry in row for letter in entry.letters}
    footnotes = [
        rf"\textsuperscript{{{letter}}}{escape(text)}."
        for text, letter in document.footnotes.items()
        if letter in letters
    ]
    notes = [] if index else [r"\par", *map(escape, document.notes)]
    best = ["Lowest NLL in bold."] if document.has_best else []
    sentences = [f"{document.title}.", *([f"{panel.caption}."] if index else filter(None, [document.assay, *best]))]
    rows = [" & ".join(map(_entry, row)) + r" \\" for row in (panel.columns, *panel.rows)]
    lines = [
        r"\begin{table}[tbp]",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{' '.join(map(escape, sentences))}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(panel.columns) - 1)}}}",
        *(r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"),
        r"\end{tabular}",
        *(r"\par\medskip\raggedright\tiny", *footnotes, *notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _entry(entry: Entry) -> str:
    text = re.sub(r"(?<![\w)-])([-+])(?=\d)", r"$\1$", escape(entry.text))  # signs, not hyphens
    text = rf"\textbf{{{text}}}" if entry.best else text
    text += f" ({escape(entry.spread)})" if entry.spread else ""
    return text + (rf"\textsuperscript{{{','.join(entry.letters)}}}" if entry.letters else "")
