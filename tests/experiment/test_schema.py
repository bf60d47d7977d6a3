"""Records that are none, or those of another cell, are left out with the reason; no other file is touched."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

import pytest

import bench
from bench.cli.main import main
from bench.core.files import read_json, write_json
from bench.experiment.cell_folder import CellFolder
from bench.experiment.schema import LARGEST, PROTOCOL_VERSION, identify, problem
from bench.reporting import figures, report

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = ("config.json", "result.json", "evaluation.json", "history.jsonl", "examples.parquet", "arrays.npz")
fake = runpy.run_path(str(FIXTURES / "make_cells.py"))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda folder, frame, log: [*figures._arrays(frame, log)][:0])


@pytest.fixture
def out(tmp_path) -> Path:
    fake["write"](tmp_path / "out", seeds=2)
    return tmp_path / "out"


def cell_of(out: Path, seed: int = 0) -> CellFolder:
    [path] = out.glob(f"runs/*/*/vae/seed-{seed}-*")
    return CellFolder(path)


def built(out: Path) -> tuple[dict[str, str], list[str]]:
    """Method -> n in the table of the report, and what was logged."""
    lines: list[str] = []
    report.build(out, log=lines.append)
    table = (out / "tables" / "glyphs-quick.csv").read_text("utf-8").splitlines()
    return {line.split(",")[0]: line.split(",")[1] for line in table[1:]}, lines


# -- what is no record ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"cell_id": None}, "something else than a name of one line as 'cell_id'"),
        ("config.json", {"seed": "0"}, "something else than a whole number from 0 as 'seed'"),
        ("config.json", {"seed": True}, "'seed'"),
        ("config.json", {"base_seed": 2**70}, "'base_seed'"),
        ("config.json", {"method": []}, "something else than a record as 'method'"),
        ("config.json", {"model": {"latent_dim": float("inf")}}, "not finite"),
        ("config.json", {"note": "\ud800"}, "half a character"),
        ("config.json", {"protocol_version": PROTOCOL_VERSION}, "not what its cell_id was made of"),
        ("result.json", {"status": "done"}, "how training ended"),
        ("result.json", {"cell_id": "0" * 12}, "is of another cell, 000000000000"),
        ("result.json", {"flops": "1e12"}, "'flops'"),
        ("result.json", {"provenance": {"threads": 10**9}}, "'provenance.threads'"),
        ("evaluation.json", {"cell_id": "0" * 12}, "is of another cell, 000000000000"),
        ("evaluation.json", {"metrics": {}}, "lacks 'metrics.nll'"),
        ("evaluation.json", {"metrics": {"nll": 2 * LARGEST}}, "beyond"),
        ("evaluation.json", {"metrics": {"nll": 1.0, "collapsed": 7}}, "true or false as 'metrics.collapsed'"),
        ("evaluation.json", {"groups": {"latent_use": []}}, "'groups.use'"),
        ("evaluation.json", {"schema_version": 10**9}, "written by a newer version"),
    ],
)
def test_a_record_is_of_the_right_kinds_and_of_its_cell(out, file, change, said):
    folder = cell_of(out)
    records = {"config.json": folder.config, "result.json": folder.result(), "evaluation.json": folder.evaluation()}
    assert problem(*records.values()) is None
    records[file] = records[file] | change
    assert (problem(*records.values()) or "").startswith(file) and said in problem(*records.values())


def test_a_config_of_today_is_the_one_that_its_id_was_made_of(out):
    config = cell_of(out).config | {"protocol_version": PROTOCOL_VERSION}
    config["cell_id"] = identify(config)
    assert problem(config) is None
    assert problem(config | {"preset": "another"}) is None
    assert "cell_id" in problem(config | {"seed": 7})


@pytest.mark.parametrize("content", ["NaN", "null", "7", '"text"', "[]", "[" * 100_000, '\ufeff{"a": 1}', "{}" + "\0"])
@pytest.mark.parametrize("file", FILES[:4])
def test_what_is_no_record_costs_its_cell_alone(out, file, content):
    (cell_of(out).path / file).write_text(content)
    counts, lines = built(out)
    assert counts["vae"] == "1" and counts["beta_vae(beta=0.4)"] == "2"
    assert sum("Left out: vae/seed-0" in line and file in line for line in lines) == 1
    assert bench.frame(out)["status"].tolist().count("damaged") == 1


@pytest.mark.parametrize("thing", ["folder", "pipe", "link to nothing", "link in a circle"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_not_waited_for(out, file, thing):
    path = cell_of(out).path / file
    path.unlink()
    if thing == "folder":
        path.mkdir()
    elif thing == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if thing == "link to nothing" else file)
    counts, lines = built(out)
    missing = thing == "link to nothing"
    if file == "config.json" or (file in FILES[1:4] and not missing):
        assert counts["vae"] == "1" and any("Left out: vae/seed-0" in line and file in line for line in lines)
    elif file in ("result.json", "evaluation.json"):  # not trained, not evaluated
        assert counts["vae"] == "1"
    else:
        assert counts["vae"] == "2"
        if not missing and file == "arrays.npz":
            assert any("no pictures of vae" in line for line in lines)


def test_a_copy_of_a_cell_is_not_another_cell(out):
    path = cell_of(out).path
    shutil.copytree(path, path.with_name("seed-5-copy"))
    shutil.copytree(path.parent, path.parent.with_name("elsewhere"))
    counts, lines = built(out)
    assert counts["vae"] == "2"
    assert any(f"seed-5-copy (config.json is that of {path.name})" in line for line in lines)
    assert sum("(the same cell as" in line for line in lines) == 2
    assert bench.frame(out)["status"].value_counts().to_dict() == {"ok": 6, "damaged": 4}
    assert main(["merge", str(out), "--out", str(out.parent / "merged")]) == 2


def test_a_stamp_cannot_have_other_files_removed(out):
    built(out)
    stamp, outside = out / "tables" / ".glyphs-quick.json", out.parent / "precious.txt"
    outside.write_text("precious")
    inside = out / "runs" / "precious.txt"
    inside.write_text("precious")
    for name in (str(outside), "../precious.txt", "runs/precious.txt", "figures/glyphs-quick/../../runs/precious.txt"):
        record = read_json(stamp)
        record["reports"][0]["files"].append(name)
        write_json(stamp, record | {"stamp": "another"})
        built(out)
        assert outside.exists() and inside.exists(), name


@pytest.mark.parametrize("content", ["{", "[]", '{"stamp": 1, "reports": [{}]}', '{"stamp": "", "reports": [1]}'])
def test_a_damaged_stamp_only_has_the_report_made_again(out, content):
    first = built(out)
    (out / "tables" / ".glyphs-quick.json").write_text(content)
    (out / "tables" / ".glyphs-quick.html").write_bytes(b"\xff")
    assert built(out) == first
    assert b"\xff" not in (out / "report.html").read_bytes()


@pytest.mark.parametrize("content", ["[]", '{"quick": []}', '{"quick": {"a": [1]}}', "NaN"])
def test_damaged_sweeps_are_one_line(out, content, capsys):
    (out / "sweeps.json").write_text(content)
    assert report.main([str(out)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {out / 'sweeps.json'} is damaged: remove it, the next run writes its own sweeps again"
    ]


def test_cells_in_folders_of_impossible_names_are_left_out(out):
    for name in (b"a\xff", b"b" * 220):
        shutil.copytree(out / "runs" / "glyphs", os.fsdecode(bytes(out / "runs") + b"/" + name))
    counts, lines = built(out)
    assert counts["vae"] == "2" and sum(line.startswith("left out: the cells in runs/") for line in lines) == 2
