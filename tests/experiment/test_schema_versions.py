"""Records of every schema that there ever was are read today, and those of one that is yet to come are left out."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

import bench
from bench.cli.main import main
from bench.core.files import dumps, write_json
from bench.experiment.cell_folder import SCHEMA_VERSION
from bench.experiment.worker import run_cell
from bench.reporting import report
from tests.conftest import TEXT_TOY, TOY, planner, tasks

SCHEMAS = Path(__file__).parents[1] / "fixtures" / "schemas"
RECORDS = ("config.json", "result.json", "evaluation.json")
VERSIONS = range(1, SCHEMA_VERSION + 1)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("bench.reporting.figures.draw", lambda *_: [])


def frozen(version: int, tmp_path: Path) -> Path:
    """A copy of the cells that were stored by this version, one of images and one of text."""
    return shutil.copytree(SCHEMAS / str(version), tmp_path / f"version-{version}")


def tables(out: Path) -> dict[str, list[dict[str, str]]]:
    """Every table's rows: column -> text."""
    found = {}
    for file in sorted(out.glob("tables/*.csv")):
        with file.open(encoding="utf-8", newline="") as opened:
            found[file.stem] = [*csv.DictReader(opened)]
    return found


def recorded(version: int, found: dict) -> dict:
    """What was in the tables when the version was new, of columns that there still are; none may have gone."""
    then = json.loads((SCHEMAS / str(version) / "tables.json").read_text("utf-8"))
    assert then.keys() == found.keys()
    for stem, rows in found.items():
        assert then[stem][0].keys() <= rows[0].keys()
        found[stem] = [{name: row[name] for name in then[stem][0]} for row in rows]
    return then


@pytest.mark.skipif("BENCH_WRITE_SCHEMA" not in os.environ, reason="writes the cells of a new schema")
def test_write_the_cells_of_this_schema(prepared, text_prepared, tmp_path):
    for data, preset in ((prepared, TOY), (text_prepared, TEXT_TOY)):
        run_cell(tasks(data)(planner(data, preset, tmp_path)("vae")) | {"command": "python -m bench.run"})
    report.build(tmp_path)
    target = SCHEMAS / str(SCHEMA_VERSION)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(tmp_path / "runs", target / "runs", ignore=shutil.ignore_patterns("*.pt", "tries.json", ".*"))
    for file in target.glob("runs/*/*/*/*/*.json"):
        record = json.loads(file.read_text("utf-8"))
        for each in (record, *record.get("groups", {}).values()):
            if "provenance" in each:  # which machine it was is no part of a schema
                each["provenance"]["machine"] = {"system": "Linux", "processor": "a processor", "cores": 2}
        write_json(file, record)
    write_json(target / "tables.json", tables(tmp_path))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_report_on_records_of_old_says_what_it_said_then(version, tmp_path):
    out = frozen(version, tmp_path)
    lines: list[str] = []
    report.build(out, log=lines.append)
    found = tables(out)
    assert recorded(version, found) == found
    assert len(found) == 2 and not any("Left out" in line for line in lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_old_are_one_frame(version, tmp_path):
    out = frozen(version, tmp_path)
    frame = bench.frame(out)
    assert frame["status"].tolist() == ["ok", "ok"]
    report.build(out)
    for stem, [row] in tables(out).items():
        [cell] = frame[frame["dataset"] + "-" + frame["preset"] == stem].to_dict("records")
        for name in ("nll", "elbo", "rec", "kl", "mi", "au", "flops"):
            assert cell[name] == pytest.approx(float(row[name]), rel=1e-7), name


@pytest.mark.parametrize("version", VERSIONS)
def test_records_of_old_are_merged(version, tmp_path):
    assert main(["merge", str(frozen(version, tmp_path)), "--out", str(tmp_path / "merged")]) == 0
    found = tables(tmp_path / "merged")
    assert recorded(version, found) == found


@pytest.mark.parametrize("file", RECORDS)
def test_records_of_a_schema_to_come_are_left_out_with_the_reason(file, tmp_path, capsys):
    out = frozen(SCHEMA_VERSION, tmp_path)
    [folder] = out.glob("runs/toy/*/vae/seed-0-*")
    record = json.loads((folder / file).read_text("utf-8")) | {"schema_version": SCHEMA_VERSION + 1, "new": [{}]}
    (folder / file).write_text(dumps(record), "utf-8")
    said = f"{file} was written by a newer version of the harness"
    lines: list[str] = []
    report.build(out, log=lines.append)
    assert any(said in line and folder.name in line for line in lines)
    assert [*tables(out)] == ["toy-text-toy"]
    frame = bench.frame(out).set_index("dataset")
    assert frame.loc["toy", "status"] == "damaged" and said in frame.loc["toy", "reason"]
    assert main(["merge", str(out), "--out", str(tmp_path / "merged")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "merged").exists()
