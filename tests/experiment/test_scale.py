"""Thousands of cells: planning and reports are not quadratic in the number of cells."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.reporting import figures, report
from tests.fixtures.make_cells import DATA
from tests.fixtures.many_cells import Study


def function_calls(work: Callable[[], object]) -> int:
    """Return how many function calls a computation makes: a measure of time that does not vary."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


def study(out: Path, rows: int, seeds: int) -> Study:
    study = Study(out, rows, seeds, DATA)
    assert study.write() == rows * seeds
    return study


def test_planning_finds_finished_cells(tmp_path):
    cells, _ = study(tmp_path, 3, 2).plan()
    assert {cell.status for cell in cells} == {"done"} and len(cells) == 6


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_planning_and_reporting_ten_thousand_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    studies = [study(tmp_path / "small", 50, 20), study(tmp_path / "large", 100, 100)]
    works = [lambda study: study.plan(), lambda study: report.build(study.out, log=str)]
    for work in works:
        small, large = (function_calls(lambda study=study: work(study)) for study in studies)
        assert large < 15 * small, "ten times as many cells"
