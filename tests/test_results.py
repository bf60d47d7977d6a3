"""The committed results: tables that the records make, and findings whose numbers stand in those tables."""

import re
from pathlib import Path

import pytest

from bench import report
from bench.reporting import figures

RESULTS = Path(__file__).parents[1] / "results"
TABLES = sorted((RESULTS / "tables").glob("*.csv"))
FINDINGS = (RESULTS / "README.md").read_text("utf-8").partition("## Findings\n")[2].partition("\n## To make")[0]
LINK = re.compile(r"\[[^]]*\]\(((?:tables|lag|\.\./docs)/[^)#]+)(?:#[^)]*)?\)")
# What is counted or is a setting is not looked up, but decimals are, and so is what has a sign.
NUMBER = re.compile(r"(?<![\w.=(/×])[-−+]?\d[\d,]*\.\d+(?![\w.]|\s*×\s*\d)")


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
