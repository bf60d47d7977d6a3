"""Markdown, LaTeX and plain text of tables and texts."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.core.errors import UserError
from bench.core.files import read_json
from bench.reporting import latex, render, report, tables, texts
from bench.reporting.assay import assess
from tests.fixtures import make_cells
from tests.reporting.records import FIXTURES, change, frames


def test_numbers_have_no_negative_zero():
    texts = [render.number(value, 2) for value in (-0.001, 0.0, -1.005, 1234.5, math.nan)]
    assert texts == ["0.00", "0.00", "-1.00", "1,234.50", "–"]


def test_footnote_letters_continue_after_z():
    document = render.Document("title", "label")
    letters = [document.footnote(f"note {i}") for i in range(28)]
    assert [letters[i] for i in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]
    assert document.footnote("note 3") == "d"


@given(st.text("ab_ *`[]()<>#|~$&;!\\-+.01'\":=/lt@", min_size=1))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_markdown_shows_sentences_as_they_are(text: str):
    text = " ".join(text.split())
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"1. {texts.sentence(text)}\n")
    content = rendered.removeprefix("<ol>\n<li>").removesuffix("</li>\n</ol>\n")
    assert html.unescape(content) == (text or "<em>(empty)</em>")


def test_latex_escapes_special_characters():
    escaped = latex.escape("lr_0 = 5 % | a\\b ~ β, §5 ½ Å ₂ 中")
    assert escaped == (r"lr\_0 = 5 \% \textbar{} a\textbackslash{}b \textasciitilde{} $\beta$, \S{}5 $\frac12$ Å 2 ?")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("name", ["golden.tex", "golden-appendix.tex"])
def test_latex_compiles_without_overfull_lines(tmp_path: Path, name: str):
    packages = r"\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    table = (FIXTURES / name).read_text("utf-8")
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "page.tex").write_text(document, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert "Overfull" not in (tmp_path / "page.log").read_text("utf-8", errors="replace")


def tabulars(text: str) -> list[list[list[str]]]:
    """Return the rows of every tabular as lists of cells."""
    bodies = re.findall(r"\\begin\{tabular\}\{l(r*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    tables = []
    for columns, body in bodies:
        lines = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(line) for line in lines} <= {1, 1 + len(columns)}
        tables.append(lines)
    return tables


def printed(text: str) -> str:
    """Return what LaTeX prints, about: without commands and braces."""
    return re.sub(r"\\[a-zA-Z]+|[{}$\\^]", "", text.replace(r"\times", "×").replace(r"\beta", "β").replace("--", "–"))


def test_latex_tables_fit_into_the_text(out: Path):
    """Many rows and long names: every line is narrower than the text by the font's widths, no float too long."""
    for i in range(20):
        name = f"a_method_with_settings(setting_{i}=0.{i},another_setting={i})"
        make_cells.write(out, [(make_cells.method(name, 60 + i), 60.0 + i, 100.0, 16, 10.0 + i)], seeds=1)
    group, frame, table = frames(out)
    document = tables.document(group, frame, table, assess(frame))
    main, appendix = latex.main(document), latex.appendix(document)
    [paper] = tabulars(main)
    assert len([line for line in paper if len(line) > 1]) == 1 + tables.MAX_PAPER_ROWS
    assert len(re.findall(r"^\\textsuperscript", main, re.MULTILINE)) <= latex.MAX_NOTES
    assert len(tabulars(appendix)) > len(document.panels)
    for lines in (paper, *tabulars(appendix)):
        assert len(lines) <= latex.MAX_LINES + 1
        columns = [*zip(*(line for line in lines if len(line) > 1), strict=True)]
        widths = [max(latex.width(printed(cell)) for cell in column) for column in columns]
        widths[0] = max(latex.width(printed(line[0])) for line in lines)
        assert sum(widths) + 2 * latex.COLUMN_SEPARATION * len(widths) <= latex.TEXT_WIDTH


@pytest.mark.usefixtures("no_figures")
def test_paper_table_has_the_rows_that_were_asked_for(out: Path):
    group, frame, table = frames(out)
    wanted = ["vae", "beta_vae(beta=0.4)"]
    document = tables.document(group, frame, table, assess(frame), wanted=wanted)
    assert [row[0].text for row in document.paper.rows] == ["VAE", "β-VAE (β = 0.4)"]
    assert [column.text for column in document.paper.columns[1:]] == ["ΔNLL", "KL", "MI", "AU", "cost (×)", "n"]
    main = latex.main(document)
    assert r"$\beta$-VAE ($\beta$ = 0.4)" in main and "autoregressive" not in main
    report.build(out)
    file = out / "tables" / "glyphs-quick.tex"
    before = file.read_bytes()
    with pytest.raises(UserError, match="--rows beta_vae"):
        report.build(out, rows=["beta_vae(beta=0.3)"])
    assert before and file.read_bytes() == before


def test_terminal_lines_fit_with_long_names(out: Path):
    name = "a_method_with_settings(" + ",".join(f"setting_{i}=0.{i}" for i in range(6)) + ")"
    for file in out.glob("runs/*/*/beta_vae*/seed-*/config.json"):
        change(file, method=read_json(file)["method"] | {"expression": name})
    group, frame, table = frames(out)
    lines = render.text(tables.document(group, frame, table, assess(frame))).split("\n\n")[1].splitlines()
    assert any(line.startswith(name) for line in lines)
    assert max(len(line) for line in lines if not line.startswith(name)) <= render.LINE_WIDTH
