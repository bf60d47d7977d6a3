"""Records of a cell: round trip, damage, and other schema versions."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import bench
from bench.core.errors import UserError
from bench.experiment.cell_folder import CellFolder, cell_folders
from bench.experiment.cell_record import read
from bench.experiment.plan import plan
from bench.experiment.queries import finished_cells
from bench.experiment.schema import (
    SCHEMA_VERSION,
    CellConfig,
    EvaluationFile,
    ResultRecord,
    identify,
    parse,
    to_json,
)
from bench.reporting.report import build
from bench.training.expressions import parse_methods
from tests.conftest import TOY, steady
from tests.fixtures import make_cells

FILES = ("config.json", "result.json", "evaluation.json", "history.jsonl")


@pytest.fixture
def out(tmp_path) -> Path:
    make_cells.write(tmp_path / "out")
    return tmp_path / "out"


def first_cell(out: Path) -> CellFolder:
    return next(cell for cell in cell_folders(out) if cell.config.method.name == "vae")


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def snapshot(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_records_survive_a_round_trip(planned):
    config = planned("sa_vae(steps=2)+anneal").config
    assert parse(CellConfig, to_json(config)) == config
    assert config.cell_id == identify(config)


EXTREME = st.one_of(
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300, 5.8e193, 2.0**63, 10**30, 5e-324, True, None]),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**60), 2**60).map(np.int64),
    st.floats().map(lambda value: torch.tensor(value, dtype=torch.float64)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> CellFolder:
    [path, *_] = make_cells.write(tmp_path_factory.mktemp("extreme"), seeds=1)
    return CellFolder(path)


@settings(steady, max_examples=40)
@given(EXTREME)
def test_any_metric_can_be_read_again(folder, value):
    record = make_cells.evaluation({"old": 1.0, "same": value}, {}, references={"unigram": value})
    record = record.with_metrics({"iw_nll": value, "old": 2.0})
    assert isinstance(record.metrics["iw_nll"], (float, int, bool, type(None)))
    assert (record.not_finite == ("iw_nll",)) == (value is not None and not math.isfinite(value))
    folder.write_record("evaluation.json", EvaluationFile(cell_id=folder.config.cell_id, evaluation=record))
    assert folder.evaluation() == record

    lines = [make_cells.validation(40), make_cells.validation(80, kl=value, lag_kl=value)]
    folder.write_history(lines)
    assert folder.history() == lines


@settings(steady, max_examples=40)
@given(EXTREME)
def test_training_result_is_finite_or_not_made(folder, value):
    try:
        record = make_cells.training(flops=value, train_seconds=value)
    except ValidationError:
        assert value is None or not math.isfinite(value)
        return
    result = ResultRecord(cell_id=folder.config.cell_id, status="ok", training=record)
    folder.write_record("result.json", result)
    assert folder.result() == result


@pytest.mark.parametrize("file", FILES)
def test_damaged_files_are_named_in_one_line(out, file, subtests):
    folder = first_cell(out).path
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": "2"}', b"[" * 9999):
        if file == "history.jsonl" and not content:
            continue
        (folder / file).write_bytes(content)
        with subtests.test(content=content[:30]):
            with pytest.raises(ValueError, match=f"^{file} is damaged: ") as error:
                read(CellFolder(folder))
            assert "\n" not in str(error.value)
            assert bench.frame(out)["status"].tolist().count("damaged") == 1


def test_wrong_values_are_named_with_their_place(out, subtests):
    cases = [
        ("config.json", {"seed": "0"}, "seed: Input should be a valid integer"),
        ("config.json", {"seed": -1}, "seed: "),
        ("config.json", {"colour": 1}, "colour: Extra inputs are not permitted"),
        ("config.json", {"method": []}, "method: "),
        ("config.json", {"train": {"epochs": 0}}, "train: Value error, 'epochs' must be positive"),
        ("result.json", {"status": "done"}, "status: "),
        ("result.json", {"cell_id": "0" * 12}, "result.json is of another cell, 000000000000"),
        ("evaluation.json", {"evaluation": {}}, "evaluation.settings: "),
    ]
    folder = first_cell(out).path
    for file, changes, message in cases:
        content = (folder / file).read_bytes()
        change(folder / file, **changes)
        with subtests.test(file=file, changes=changes):
            with pytest.raises(ValueError, match=f"^{file}") as error:
                read(CellFolder(folder))
            assert message in str(error.value)
        (folder / file).write_bytes(content)


def test_a_config_must_match_its_cell_id(out):
    folder = first_cell(out).path
    change(folder / "config.json", base_seed=7)
    with pytest.raises(ValueError, match="cell_id in config.json does not match its content"):
        read(CellFolder(folder))


@pytest.mark.parametrize(
    ("version", "reader"), [(1, "an older version"), (SCHEMA_VERSION + 1, "a newer version")], ids=["older", "newer"]
)
def test_other_schema_versions_are_refused_untouched(out, prepared, version, reader):
    folder = first_cell(out)
    for file in folder.path.glob("*.json"):
        change(file, schema_version=version)
    before = snapshot(out)
    rows, _ = parse_methods(["vae"], "quick")
    works = [
        lambda: build(out, log=str),
        lambda: plan(rows, prepared.info, TOY, 1, 0, "cpu", out),
        lambda: finished_cells([out]),
        lambda: bench.frame(out),
    ]
    for work in works:
        with pytest.raises(UserError) as error:
            work()
        assert f"has schema version {version}, which {reader} of the harness reads" in str(error.value)
        assert str(folder.path) in str(error.value) and "\n" not in str(error.value)
    assert snapshot(out) == before


def test_a_copied_cell_does_not_count_twice(out):
    path = first_cell(out).path
    shutil.copytree(path, path.with_name("seed-5-copy"))
    shutil.copytree(path.parent, path.parent.with_name("elsewhere"))
    counts = bench.frame(out)["status"].value_counts()
    assert counts["damaged"] == 5 and counts["done"] + counts["failed"] == 9
