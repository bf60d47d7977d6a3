"""The page: self-contained, its text escaped, its scripts allowed by hash, and its numbers those of the tables."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.core.files import read_json, write_json
from bench.reporting.frame import cells_frame
from bench.reporting.page.data import _with_option
from bench.reporting.paired import interval, paired_differences
from bench.reporting.report import build
from tests.reporting.records import stored


class Elements(HTMLParser):
    """The attributes of every element, and the text of every script by type."""

    def __init__(self, text: str):
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[str, str]] = []
        self.script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.script = dict(attrs).get("type", "")

    def handle_endtag(self, tag):
        self.script = None

    def handle_data(self, data):
        if self.script is not None:
            self.scripts.append((self.script, data))


@pytest.fixture(scope="module")
def text(image_cells: Path, text_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page on images and text; a method's summary and a note look like HTML."""
    out = tmp_path_factory.mktemp("page")
    for source in (image_cells, text_cells):
        shutil.copytree(source, out, dirs_exist_ok=True)
    for file in out.glob("runs/*/*/vae/seed-*/config.json"):
        config = read_json(file)
        config["method"]["summary"] = "</script><script>alert('x')</script> & more"
        config["preset_notes"] = ["a <b>bold</b> note"]
        write_json(file, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.reporting.figures.draw", lambda *_: [])
        build(out, log=lambda line: None)
    return (out / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Elements:
    return Elements(text)


@pytest.fixture(scope="module")
def data(page: Elements) -> dict[str, Any]:
    return json.loads(next(content for kind, content in page.scripts if kind == "application/json"))


def test_page_makes_no_requests(page: Elements, text: str):
    assert not [value for _, name, value in page.attributes if name in ("src", "href", "action", "srcset")]
    assert not re.search(r"@import|url\((?!#|data:)", text.partition("</style>")[0])
    [policy] = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert "default-src 'none'" in policy and "img-src data:" in policy and "'unsafe-eval'" not in policy


def test_policy_allows_exactly_the_scripts_of_the_page(page: Elements):
    [policy] = [value for _, name, value in page.attributes if name == "content" and "script-src" in value]
    allowed = re.search(r"script-src ([^;]*);", policy)[1].split()
    scripts = [content for kind, content in page.scripts if not kind]
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in scripts]
    assert allowed == [f"'sha256-{digest}'" for digest in digests] and len(scripts) > 2


def test_text_of_records_cannot_leave_the_data(text: str, data: dict[str, Any]):
    assert "alert('x')</script>" not in text and "<b>bold</b>" not in text
    assert data["methods"]["vae"]["summary"] == "</script><script>alert('x')</script> & more"
    assert any("a <b>bold</b> note" in note for group in data["sets"] for note in group["notes"])


def test_sets_with_most_seeds_come_first_with_all_rows(data: dict[str, Any]):
    assert [group["seeds"] for group in data["sets"]] == [3, 2]
    for group in data["sets"]:
        assert {"vae", "autoregressive"} <= {row["id"] for row in group["rows"]} and group["baseline"] == "vae"
        for row in group["rows"]:
            assert {column["name"] for column in group["columns"]} == {*row["entries"]}
            assert len({len(seed["values"]) for seed in row["seeds"]}) == 1
            assert row["look"]["path"].startswith("M")
            assert row["curves"] is None or max(map(len, row["curves"].values())) <= 40


def test_pairs_are_the_intervals_of_the_tables(image_cells: Path):
    methods = ("vae", "autoregressive", "beta_vae(beta=0.4)")
    frame = cells_frame([cell for method in methods for cell in stored(image_cells, method)])
    names = [*dict.fromkeys(frame["method"])]
    pairs = paired_differences(frame, names, "nll")
    done = frame[frame["status"] == "done"]
    assert len(pairs) == 3
    for first, second, mean, low, high, n in pairs:
        cells = [done[done["method"] == names[i]] for i in (first, second)]
        expected, _ = interval(cells[0], "nll", cells[1])
        assert n == expected.n
        assert (mean, low, high) == pytest.approx((expected.mean, expected.low, expected.high), abs=1e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--methods", "all", "--out", "x"], ["run", "--out", "x", "--methods", "vae"]),
        (["run", "--methods=all"], ["run", "--methods", "vae"]),
        (["run"], ["run", "--methods", "vae"]),
    ],
)
def test_command_of_one_row_has_only_that_row(words: list[str], expected: list[str]):
    assert _with_option(words, "--methods", "vae") == expected
