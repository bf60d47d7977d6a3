"""Markdown, LaTeX and plain text of tables and texts."""

from __future__ import annotations

import html
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.core.files import read_json
from bench.reporting import latex, render, tables, texts
from bench.reporting.assay import assess
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
    assert (
        latex.escape("lr_0 = 5 % | a\\b ~ β") == r"lr\_0 = 5 \% \textbar{} a\textbackslash{}b \textasciitilde{} $\beta$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path):
    packages = r"\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    table = (FIXTURES / "golden.tex").read_text("utf-8")
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "page.tex").write_text(document, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)


def test_terminal_lines_fit_with_long_names(out: Path):
    name = "a_method_with_settings(" + ",".join(f"setting_{i}=0.{i}" for i in range(6)) + ")"
    for file in out.glob("runs/*/*/beta_vae*/seed-*/config.json"):
        change(file, method=read_json(file)["method"] | {"expression": name})
    group, frame, table = frames(out)
    lines = render.text(tables.document(group, frame, table, assess(frame))).split("\n\n")[1].splitlines()
    assert any(line.startswith(name) for line in lines)
    assert max(len(line) for line in lines if not line.startswith(name)) <= render.LINE_WIDTH
