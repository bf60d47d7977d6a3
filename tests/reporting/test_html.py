"""The page: self-contained, well formed, its text escaped."""

from __future__ import annotations

import html
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.core.files import read_json, write_json
from bench.reporting import figures
from bench.reporting.report import build

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The elements of a page; fails unless every element is closed in turn."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # (tag, name, value)
        self.tags: Counter[str] = Counter()
        self.tables: list[list[int]] = []  # of every table, the number of cells per row
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def out(image_cells: Path, text_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on images and text, with figures for text only; a method's summary and a note look like HTML."""
    out = tmp_path_factory.mktemp("page")
    for source in (image_cells, text_cells):
        shutil.copytree(source, out, dirs_exist_ok=True)
    for file in out.glob("runs/*/*/vae/seed-*/config.json"):
        config = read_json(file)
        config["method"]["summary"] = "<script>alert('x')</script> & more"
        config["preset_notes"] = ["a <b>bold</b> note"]
        write_json(file, config)
    draw = figures.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda folder, *args: draw(folder, *args) if "reviews" in folder.name else [])
        build(out, log=lambda line: None)
    return out


@pytest.fixture(scope="module")
def text(out: Path) -> str:
    return (out / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_rows_are_as_long_as_their_header(page: Page):
    assert page.tables and all(len(set(rows)) == 1 for rows in page.tables)


def test_page_makes_no_requests(page: Page, text: str):
    for name in ("src", "href", "action", "srcset"):
        assert all(value.startswith(("#", "data:")) for value in page.values(name))
    assert not re.search(r"@import|url\((?!#|data:)", text)
    assert page.tags["link"] == page.tags["iframe"] == 0
    [policy] = [value for value in page.values("content") if "default-src" in value]
    assert "default-src 'none'" in policy and "img-src data:" in policy


def test_ids_are_unique_and_links_resolve(page: Page):
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    assert {value[1:] for value in page.values("href")} <= {*ids}


def test_text_of_records_is_escaped(page: Page, text: str):
    assert "<script>alert" not in text and "&lt;script&gt;alert(" in text
    assert "<b>bold</b>" not in text and page.tags["script"] == 1
    assert "loss is nan at update 120 (lr_0 = 0.1 | 5 % & more)" in html.unescape(text)


def test_page_has_every_group_with_figures_and_methods(out: Path, page: Page, text: str):
    stems = {file.stem for file in (out / "tables").glob("*.csv")}
    sections = {value for tag, name, value in page.attributes if (tag, name) == ("section", "id")}
    assert len(stems) == 2 and stems == sections
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(images) == len([*out.glob("figures/*/*.png")]) >= 6
    assert all(": " in label for label in page.values("alt"))
    for heading in ("Results", "Figures", "Methods", "Reproduce", "Texts"):
        assert f"<h3>{heading}</h3>" in text
    for method in ("autoregressive", "beta_vae(beta=0.4)", "sa_vae", "aggressive"):
        assert method in text
