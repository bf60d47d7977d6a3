"""Names, notes, reasons and words are text wherever they are printed: no markup, no commands, no columns."""

from __future__ import annotations

import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench import report
from bench.records import NAME
from bench.reporting.svg import inline
from bench.store import dumps

fake = runpy.run_path(str(Path(__file__).parent / "fixtures" / "make_cells.py"))

#: Of one line, as names are: what would begin an element, an attribute, a command or a column, each called hostile.
NAMES = [
    "<script>hostile()</script>",
    "\"><hostile x='1'>&lt;&amp;&#60;",
    "' onhostile='1' hostile=\"1",
    "]]></style></svg></title><hostile>",
    "{{ hostile }}{% hostile %}${hostile}",
    "<!--<hostile>--><?hostile?>",
    r"\input{/etc/passwd}\hostile%\\",
    r"$\hostile$^^5chostile~#_&}{",
    r"a|b\|c\\|d`|`hostile``|",
    "[hostile](javascript:hostile) ![hostile](http://hostile) *a* _b_ ~~c~~",
    "| --- | # hostile",
    '=hostile()+1,2"3',
    "שלום \u200fعربي\u200e hostile",
    "名前 Ünïcödé 🎲 é",
    "x" * 200,  # what a folder can be named
]
#: Of more lines, as notes are.
TEXTS = [
    *NAMES,
    "\n\n# hostile\n\n<hostile>\n",
    "a\x00\x1b[31mb\x7f\x85c\u2028d",
    "\u202ehostile\u2066",
    "\n|a|b|\n|-|-|\n",
]


def text(place: int) -> str:
    return f"{place} {TEXTS[place % len(TEXTS)]} {TEXTS[(place + 7) % len(TEXTS)]}"


def write(out: Path, hostile: bool) -> None:
    """Cells of text and of images, with a hostile string in every place that holds one; else with a tame one."""

    def name(place: int) -> str:
        return NAMES[place % len(NAMES)] if hostile else f"name {place}"

    def note(place: int) -> str:
        return text(place) if hostile else f"note {place}"

    rows = []
    for place in range(len(NAMES)):
        about = {
            "name": name(place + 1),
            "summary": note(place),
            "citation": note(place + 1),
            "family": note(place + 2),
        }
        about |= {"about": note(place + 3), "notes": [note(place + 4)], "footnotes": {"kl": note(place + 5)}}
        about |= {"config": {name(place): note(place)}, "schedule": {"name": name(place + 2), name(place): note(place)}}
        rows.append((fake["method"](name(place), place, **about), 60.0 + place, 3.0, 2, 1.0))
    rows[0] = (rows[0][0] | {"baseline": True}, *rows[0][1:])
    failed = {"status": "failed", "reason": note(3), "traceback": note(5)}
    for data in (fake["DATA"], fake["TEXT"]):
        data = data | {"title": name(0), "unit": name(1), "source": note(2), "notes": [note(3), note(4)]}
        protocol = {"preset_notes": [note(5)], "model": {name(6): note(6)}, "device": name(8), "precision": name(9)}
        folders = fake["write"](out, rows, 1, {(name(2), 0): failed}, dataset=data, **protocol)
        for place, folder in enumerate(folders):
            made = {"commit": note(place), "command": note(place), "started": note(place), "threads": 1}
            made |= {"versions": {name(place): note(place)}, "machine": {name(place): note(place)}}
            for file in ("result.json", "evaluation.json"):
                if (folder / file).exists():
                    record = json.loads((folder / file).read_text("utf-8")) | {"provenance": made}
                    if "groups" in record:
                        record |= {"references": {name(place): 1.0, f"{name(place)}_se": 1.0}}
                        record["groups"] |= {name(place): {"settings": {name(place): note(place)}}}
                    (folder / file).write_text(dumps(record), "utf-8")
            if (folder / "texts.json").exists():
                said = {"greedy": note(place), "beam": note(place + 1), "ancestral": note(place + 2)}
                steps = [{"share": 0.5, **said}]
                texts = {"samples": [note(i) for i in range(len(TEXTS))]}
                texts |= {"reconstructions": [{"original": note(place + 3), **said}]}
                texts |= {"interpolations": [{"from": note(place + 4), "to": note(place + 5), "steps": steps}]}
                (folder / "texts.json").write_text(dumps(texts), "utf-8")
        (folders[-1] / "config.json").write_text("{")
        strange = "damaged <hostile> \\hostile |a| \x1b[31m\n`" if hostile else "damaged"
        folders[-1].parent.rename(folders[-1].parent.with_name(strange))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[str], Path]:
    """The folder with the report on hostile cells, what was logged, and the folder with that on tame ones."""
    lines: list[str] = []
    folders = [tmp_path_factory.mktemp(name) for name in ("hostile", "tame")]
    with pytest.MonkeyPatch.context() as patch:
        save = report_figures().save
        patch.setattr(report_figures(), "save", lambda figure, path: save(figure, path, ["svg"]))
        for folder, hostile in zip(folders, (True, False), strict=True):
            write(folder, hostile)
            report.build(folder, log=lines.append)
    return folders[0], lines, folders[1]


def report_figures():
    from bench.reporting import figures

    return figures


class Page(HTMLParser):
    def __init__(self, content: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.open: list[str] = []
        self.scripts = 0
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.attributes |= {(tag, name) for name, _ in attrs}

    def handle_comment(self, data):
        self.tags.add(f"<!--{data}")

    def handle_pi(self, data):
        self.tags.add(f"<?{data}")


def test_no_element_or_attribute_of_the_page_comes_from_data(made):
    out, _, tame = made
    page, other = (Page((folder / "report.html").read_text("utf-8")) for folder in (out, tame))
    assert page.tags == other.tags and page.attributes == other.attributes
    assert page.scripts == other.scripts == 1
    assert "hostile" in (out / "report.html").read_text("utf-8")


def test_no_text_of_the_page_can_turn_or_erase_what_follows_it(made):
    content = (made[0] / "report.html").read_text("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", content)


def test_no_command_of_latex_comes_from_data(made):
    out, _, tame = made
    both = ["".join(file.read_text("utf-8") for file in sorted(folder.glob("tables/*.tex"))) for folder in (out, tame)]
    commands, others = ({*re.findall(r"\\[A-Za-z]+", each)} for each in both)
    escapes = {rf"\text{name}" for name in ("backslash", "asciitilde", "asciicircum", "bar", "less", "greater")}
    assert commands - others <= escapes | {r"\textsuperscript", r"\linewidth"}  # of a column for long names
    plain = re.sub(r"\\[\\&%$#_{}]", "", both[0])
    plain = re.sub(r"\$(\\[A-Za-z]+|[-+]|\^2)\$|\\[A-Za-z]+", "", plain)  # signs, Greek letters, commands
    assert not re.search(r"[\\%$#^~]", plain), re.findall(r".{30}[\\%$#^~].{30}", plain)[:3]
    assert all(
        line.count("{") == line.count("}") for line in re.sub(r"\\[{}]", "", both[0]).splitlines() if "&" in line
    )


def test_tables_of_markdown_keep_their_columns_and_hold_no_markup_of_data(made):
    out, _, tame = made
    for file in sorted(out.glob("t*/*.md")):
        both = [
            MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(where.read_text("utf-8"))
            for where in (file, tame / file.relative_to(out))
        ]
        kinds, others = ({*kinds_of(tokens)} for tokens in both)
        assert kinds <= others | {"code_inline"}, (file.name, kinds - others)
        rows, tame_rows = (rows_of(tokens) for tokens in both)
        assert rows == tame_rows and bool(rows) == (file.parent.name == "tables"), file.name


def kinds_of(tokens) -> list[str]:
    found = []
    for token in tokens:
        found.append(token.content if token.type.startswith("html") else token.type)
        found += kinds_of(token.children or [])
    return found


def rows_of(tokens) -> list[int]:
    """Of every row of a table, how many cells it has."""
    counts: list[int] = []
    for token in tokens:
        if token.type == "tr_open":
            counts.append(0)
        elif token.type in ("td_open", "th_open"):
            counts[-1] += 1
    return counts


def test_what_is_logged_is_a_line_that_can_be_printed(made):
    _, lines, _ = made
    assert lines and all(line.isprintable() or "\u200f" in line or "\xa0" in line for line in lines), lines
    assert any("damaged" in line for line in lines)


@pytest.mark.parametrize("bad", ["a\nb", "\x1b[31m", "\u202e", "\ud800", "x" * (NAME + 1), "", 7, None])
def test_a_cell_whose_name_is_no_line_of_text_is_left_out(bad, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.reporting.figures.draw", lambda *_: [])
    folders = fake["write"](tmp_path, seeds=1)
    config = json.loads((folders[0] / "config.json").read_text("utf-8"))
    config["method"]["expression"] = bad
    (folders[0] / "config.json").write_text(json.dumps(config))
    lines: list[str] = []
    [made] = report.build(tmp_path, log=lines.append)
    assert [line for line in lines if "Left out" in line and folders[0].name in line]
    assert "Left out" in made.text


def test_a_figure_keeps_the_digits_of_a_name_and_rounds_coordinates_alone():
    drawn = (
        '<svg viewBox="0 0 9 9">\n<text x="0.12345" id="a">vae(beta=0.12345) id="a" xlink:href #ffffff;</text>\n</svg>'
    )
    found = inline(drawn, "name", "label")
    assert '<text x="0.12">vae(beta=0.12345) id="a" xlink:href #ffffff;</text>' in found
