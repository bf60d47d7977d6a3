"""The committed results: tables that the records make, and findings whose numbers stand in those tables."""

import re
from pathlib import Path

import pytest

from bench.reporting import figures, report

RESULTS = Path(__file__).parents[2] / "results"
TABLES = sorted((RESULTS / "tables").glob("*.csv"))
FINDINGS = (RESULTS / "README.md").read_text("utf-8").partition("## Findings\n")[2].partition("\n## What is here")[0]
LINK = re.compile(r"\]\(((?:tables|lag|runs)/[^)#]+)")
DECIMAL = re.compile(r"(?<![\w.=])[-+−]?\d+\.\d+(?![\w.])")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """A report from the committed records, without its figures."""
    out = tmp_path_factory.mktemp("results")
    for name in ("runs", "sweeps.json"):
        if (RESULTS / name).exists():
            (out / name).symlink_to(RESULTS / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *_: [])
        report.build(out, log=lambda line: None)
    return out


@pytest.mark.parametrize(
    "table",
    [file for each in TABLES for file in sorted(each.parent.glob(f"{each.stem}.*"))],
    ids=lambda file: file.name,
)
def test_tables_are_those_of_the_records(table, again):
    assert (again / "tables" / table.name).read_bytes() == table.read_bytes(), "python -m bench.report results"


def test_every_record_is_in_a_table():
    groups = {f"{folder.parent.name}-{folder.name}" for folder in (RESULTS / "runs").glob("*/*")}
    assert groups == {table.stem for table in TABLES}


def test_records_name_no_place_of_the_machine_that_made_them():
    for record in (RESULTS / "runs").rglob("result.json"):
        assert not re.search(r"[\"' =]/\w", record.read_text("utf-8")), record


@pytest.mark.parametrize("paragraph", [text for text in re.split(r"\n\n|\n(?=- )", FINDINGS) if DECIMAL.search(text)])
def test_numbers_of_the_findings_stand_in_the_tables_that_they_point_to(paragraph):
    files = LINK.findall(paragraph)
    assert files, f"no table is named: {paragraph}"
    there = {abs(number) for file in files for number in numbers((RESULTS / file).read_text("utf-8"))}
    for found in DECIMAL.findall(paragraph):
        digits = len(found.partition(".")[2])
        value = float(found.strip("+-−"))
        assert any(abs(number - value) <= 0.5001 * 10**-digits for number in there), f"{found} is not in {files}"


def numbers(text):
    return [float(number.replace("−", "-")) for number in re.findall(r"[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]


def test_the_readme_shows_rows_of_the_main_table():
    shown = panel((RESULTS.parent / "README.md").read_text("utf-8").partition("## What it finds\n")[2])
    stored = {row["method"]: row for row in panel((RESULTS / "tables" / "synthetic-small.md").read_text("utf-8"))}
    assert len(shown) > 10
    for row in shown:
        assert row.items() <= stored[row["method"]].items()


def panel(text):
    """The first table of a page of Markdown, without marks and footnotes: a dict for every row."""
    lines = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE).group().splitlines()
    cells = [
        [re.sub(r"<sup>.*?</sup>|\*", "", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
