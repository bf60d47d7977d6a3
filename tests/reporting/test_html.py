"""The page: one file that asks for nothing, well formed, its text escaped; in a browser, no wider than its window."""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.core.files import read_json, write_json
from bench.experiment.cell_folder import CellFolder, cell_folders
from bench.reporting.report import build

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOID = {"meta", "link", "br", "hr", "img", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Elements of a page, each closed in turn; and the cells of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[int]] = []  # of every table, cells a row
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.count[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows.append([])
        elif tag == "tr":
            self.rows[-1].append(0)
        elif tag in ("td", "th"):
            self.rows[-1][-1] += 1

    def handle_startendtag(self, tag, attrs):
        self.count[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The golden cells of images and text, one of them with a name and a reason that are not to be taken for HTML."""
    out = tmp_path_factory.mktemp("page")
    for cells in ("cells", "text-cells"):
        shutil.copytree(FIXTURES / cells, out, dirs_exist_ok=True)
    folder = next(each for each in cell_folders(out) if (each.result() or {}).get("status") == "ok")
    config = folder.config
    config["method"]["summary"] = "<script>alert('x')</script> & more"
    config["preset_notes"] = ["a <b>bold</b> note"]
    write_json(folder.path / "config.json", config)
    build(out, log=lambda line: None)
    return out


@pytest.fixture(scope="module")
def text(out) -> str:
    return (out / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_every_element_is_closed_and_every_row_is_as_long_as_its_head(page):
    assert page.rows and all(len(set(rows)) == 1 for rows in page.rows)


def test_the_page_asks_for_nothing(page, text):
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"@import|url\((?!#|data:)", text)
    assert page.count["link"] == page.count["iframe"] == 0


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = Counter(value for _, name, value in page.attributes if name == "id")
    assert max(ids.values()) == 1
    links = {value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")}
    assert links <= ids.keys(), links - ids.keys()


def test_text_of_records_is_text(text, page):
    assert "<script>alert" not in text and "&lt;script&gt;alert(" in text
    assert "<b>bold</b>" not in text and page.count["script"] == 1


def test_a_page_has_every_group_with_its_tables_claims_figures_and_methods(out, page, text):
    stems = {file.stem for file in (out / "tables").glob("*.csv")}
    assert len(stems) > 1
    sections = {value for tag, name, value in page.attributes if (tag, name) == ("section", "id")}
    assert stems <= sections
    figures = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(figures) >= 5 and all(": " in label for label in figures)
    for heading in ("Results", "Figures", "Methods", "To make it again", "Texts"):
        assert f"<h3>{heading}</h3>" in text, heading
    for file in (out / "tables").glob("*.csv"):
        for row in file.read_text("utf-8").splitlines()[1:]:
            assert html.escape(row.split(",")[0].strip('"')).split("(")[0] in text


def test_cells_that_are_missing_stand_with_their_reason(out, text):
    failed = [each for each in cell_folders(out) if (_result(each) or {}).get("status") == "failed"]
    assert failed
    for folder in failed:
        assert folder.result()["reason"] in html.unescape(text)


def _result(folder: CellFolder) -> dict | None:
    try:
        return folder.result()
    except ValueError:
        return None


def test_the_page_keeps_groups_that_were_not_asked_for(out, text):
    groups = sorted({tuple(folder.path.parts[-4:-2]) for folder in cell_folders(out)})
    build(out, groups[:1], log=lambda line: None)
    assert (out / "report.html").read_text("utf-8") == text
    record = out / "tables" / f".{'-'.join(groups[-1])}.json"
    assert read_json(record)["stamp"]


# -- in a browser --------------------------------------------------------------------------------------------------

PROBE = """
<!doctype html><body><iframe id="page" style="border: 0; width: WIDTHpx; height: 900px" srcdoc="PAGE"></iframe>
<pre id="found"></pre><script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {
  const inside = frame.contentDocument, table = inside.querySelector("table.sortable");
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.value);
  const before = order(), heads = table.tHead.rows[0].cells;
  heads[1].querySelector("button").click();
  const up = order(), said = heads[1].getAttribute("aria-sort");
  heads[1].querySelector("button").click();
  const down = order();
  for (const each of inside.querySelectorAll("details")) each.open = true;
  document.getElementById("found").textContent = JSON.stringify({
    before, up, down, said, scroll: inside.documentElement.scrollWidth, width: inside.documentElement.clientWidth,
    dark: frame.contentWindow.getComputedStyle(inside.body).backgroundColor,
  });
});
</script></body>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 390, 360])
def test_the_page_in_a_browser(text, tmp_path, width):
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", html.escape(text)), "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
    flags += (
        "--disable-component-update --hide-scrollbars --enable-logging=stderr --virtual-time-budget=5000 --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 40},1000"]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert found["scroll"] <= found["width"] == width
    numbers = [float(value) for value in found["up"] if value]
    assert numbers == sorted(numbers) and found["said"] == "ascending" and len(numbers) > 2
    assert [float(value) for value in found["down"] if value] == numbers[::-1]
    assert sorted(found["before"]) == sorted(found["up"])
