"""Thousands of cells: work that grows with their number and not with its square, and the bars at 10,000."""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.core.locks import file_lock
from bench.reporting import figures, report
from tests.fixtures import many_cells

ROOT = Path(__file__).resolve().parents[1]
SIZES = {100: (10, 10), 400: (20, 20)}


class Opened:
    """Counts the files opened under a folder while it is told to."""

    def __init__(self) -> None:
        self.under, self.count = "", 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.under and event == "open" and str(arguments[0]).startswith(self.under):
            self.count += 1

    def during(self, folder: Path, work) -> int:
        self.under, self.count = str(folder), 0
        try:
            work()
        finally:
            self.under = ""
        return self.count


OPENED = Opened()


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Finished studies by their number of cells."""
    made = {}
    for count, (rows, seeds) in SIZES.items():
        made[count] = tmp_path_factory.mktemp("study") / "out"
        assert many_cells.write(made[count], rows, seeds) == count
    return made


def calls(work) -> int:
    """Calls of functions that some work takes: like seconds, and the same every time."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


def test_planning_finds_finished_cells_and_grows_with_their_number(studies):
    taken = {}
    for count, out in studies.items():
        cells, *_ = many_cells.planned(out, *SIZES[count])
        assert {cell.status for cell in cells} == {"done"}
        taken[count] = calls(lambda: many_cells.planned(out, *SIZES[count]))
    assert taken[400] < 5 * taken[100]


def test_planning_opens_two_files_of_a_cell_that_is_done_and_one_of_one_that_is_not(studies, tmp_path):
    assert OPENED.during(studies[100], lambda: many_cells.planned(studies[100], 10, 10)) == 2 * 100
    assert OPENED.during(tmp_path, lambda: many_cells.planned(tmp_path, 10, 10)) == 100


def test_a_report_grows_with_the_number_of_cells_and_reads_each_file_at_most_twice(studies, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    opened, called = {}, {}

    def build(out: Path, count: int) -> None:
        opened[count] = OPENED.during(out / "runs", lambda: report.build(out, force=True, log=str))

    for count, out in studies.items():
        called[count] = calls(lambda: build(out, count))
    stored = 6  # files of a cell
    assert all(opened[count] < 2 * stored * count for count in studies), opened
    assert called[400] < 6 * called[100]


def test_one_report_waits_for_another(studies, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    monkeypatch.setattr(report, "PATIENCE", 0.1)
    out, said = studies[100], []
    other = threading.Thread(target=lambda: report.build(out, force=True, log=said.append))
    (out / "tables").mkdir(exist_ok=True)
    with file_lock(out / report.LOCK):
        before = {file: file.stat().st_mtime_ns for file in out.rglob("*.md")}
        other.start()
        time.sleep(1)
        assert other.is_alive() and any("waits for it" in line for line in said)
        assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.md")}
    other.join(60)
    assert (out / "report.html").exists() and not (out / report.LOCK).exists()


def spent(*words: str) -> tuple[float, float]:
    """Seconds and GB of a command that must end well."""
    code = "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
    code += "print(r.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    began = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    seconds = time.monotonic() - began
    status, most = map(int, ran.stdout.split())
    assert status == 0, ran.stderr
    return seconds, most / (2**20 if sys.platform != "darwin" else 2**30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_ten_thousand_cells_are_planned_within_a_minute_and_reported_on_within_three(tmp_path, share):
    assert many_cells.write(tmp_path, 100, 100, share=share) == 10_000 * share
    run = ["-m", "bench", "run", "--methods", many_cells.methods(100), "--dataset", "glyphs", "--seeds", "100"]
    seconds, memory = spent(sys.executable, *run, "--dry-run", "--device", "cpu", "--out", str(tmp_path))
    assert seconds < 60 and memory < 2
    if share == 1:
        seconds, memory = spent(sys.executable, "-m", "bench", "report", str(tmp_path))
        assert seconds < 180 and memory < 2
        seconds, memory = spent(sys.executable, *run, "--device", "cpu", "--out", str(tmp_path))
        assert seconds < 60 and memory < 2
