"""Fifty rows, four data sets and five seeds: size and time of the report, and the same bytes twice."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiment.plan import method_record
from bench.reporting import report
from bench.training.expressions import parse_methods
from tests.fixtures import make_cells

pytestmark = pytest.mark.slow
MAX_BYTES, MAX_SECONDS = 2.5e6, 90.0  # seconds: 17 on two idle cores, more beside other tests


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("large")
    rows, _ = parse_methods(["all"], "quick")
    records = [record for row in rows if (record := method_record(row)).family != "reference"][:50]
    methods = [(record, 60 + 0.1 * i, 0.2 * i, 1 + i // 4, 1 + i % 5) for i, record in enumerate(records)]
    for dataset in (make_cells.DATA, make_cells.TEXT):
        for number in range(2):
            info = replace(dataset, name=f"{dataset.name}{number}", title=f"{dataset.name}{number}")
            make_cells.write(out, [*methods, *make_cells.CONTROLS], 5, {}, {}, dataset=info)
    return out


def test_page_of_fifty_rows_is_small_and_the_same_twice(out: Path, capsys: pytest.CaptureFixture[str]):
    pages = []
    for _ in range(2):
        began = time.perf_counter()
        report.build(out, log=str, processes=2)
        seconds = time.perf_counter() - began
        pages.append((out / report.PAGE).read_bytes())
    with capsys.disabled():
        print(f"\nreport of 1,000 cells: {seconds:.1f} s, page of {len(pages[0]) / 1e6:.2f} MB")
    assert pages[0] == pages[1] and len(pages[0]) <= MAX_BYTES and seconds <= MAX_SECONDS
