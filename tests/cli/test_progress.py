"""Progress read from the files of cells: states, numbers and event lines."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from bench.cli.progress import CellProgress, RunProgress
from bench.core.files import write_text
from bench.evaluation.config import EvaluationConfig
from bench.experiment.cell_folder import CellFolder, lock_cell
from bench.experiment.schema import Failure, ResultRecord
from bench.training.result import Validation

CELL = "0123456789ab"
LINE = Validation(
    phase="main", update=5, encoder_updates=0, seconds=1.0, train_loss=3.0, beta=1.0, lr=0.1, selected=True, elbo=-2.5
)


@pytest.fixture
def cell(tmp_path) -> CellProgress:
    folder = CellFolder(tmp_path / f"seed-0-{CELL}")
    return CellProgress("vae seed 0", folder, updates=10, weight=2.0, evaluation=EvaluationConfig())


def write(cell: CellProgress, **fields) -> None:
    cell.folder.path.mkdir(exist_ok=True)
    cell.folder.write_record("result.json", ResultRecord(cell_id=CELL, **fields))


def test_running_cell_shows_its_last_validation(cell, capsys):
    progress = RunProgress([cell], Console(highlight=False, soft_wrap=True))
    progress.poll([cell])
    with lock_cell(cell.folder.path):
        write(cell, status="running")
        cell.folder.write_history([LINE])
        progress.poll([cell])
        assert (cell.state, cell.update, cell.details) == ("running", 5, "ELBO -2.50")
        assert cell.fraction == pytest.approx(0.45)
        cell.folder.write_update(7)
        progress.poll([cell])
        assert (cell.update, cell.details) == (7, "ELBO -2.50")
        write(cell, status="ok")
        progress.poll([cell])
        assert cell.state == "evaluating"
    lines = capsys.readouterr().out.splitlines()
    assert ["update 5 of 10 – ELBO -2.50 (0/1)" in lines[0], "evaluating" in lines[2], len(lines)] == [True, True, 3]


def test_failure_counts_once_the_worker_is_done(cell, capsys):
    progress = RunProgress([cell], Console(highlight=False, soft_wrap=True))
    with lock_cell(cell.folder.path):
        write(cell, status="failed", reason="loss is NaN")  # the worker may try again
        progress.poll([cell])
        assert not cell.finished
    progress.poll([cell])
    assert cell.state == "failed" and progress.unfinished == [] and cell.fraction == 1
    assert "vae seed 0: failed – loss is NaN (1/1)" in capsys.readouterr().out


def test_missing_and_earlier_results_are_ignored(cell):
    cell.poll()
    assert cell.state == "waiting" and not cell.folder.path.exists()
    write(cell, status="ok", evaluation_failure=Failure(reason="no memory", traceback=""))
    cell = CellProgress("vae seed 0", cell.folder, 10, 1.0, EvaluationConfig())
    cell.poll()
    assert cell.state == "waiting"


def cells(folder, *weights) -> list[CellProgress]:
    return [
        CellProgress(f"vae seed {seed}", CellFolder(folder / str(seed)), 10, weight, EvaluationConfig())
        for seed, weight in enumerate(weights)
    ]


def test_time_left_follows_the_finished_cells(tmp_path):
    """Estimates of 100 s took 300 s, so the rest takes three times its estimate, on two workers."""
    progress = RunProgress(cells(tmp_path, 100.0, 100.0, 40.0, 80.0), Console(quiet=True), seconds_per_weight=1.0)
    assert progress.seconds_left() == 320
    first, second, *_ = progress.cells
    first.state = second.state = "running"
    progress.poll([first])
    assert progress.parallel == 2
    for cell, state in ((first, "done"), (second, "failed")):  # a failure says nothing about the time of a cell
        cell.state, cell.began, cell.ended = state, (1000.0, 0.0), 1300.0
        progress.unfinished.remove(cell)
    assert progress.seconds_left() == pytest.approx(3 * 80)
    progress.unfinished[1].weight = 40.0
    assert progress.seconds_left() == pytest.approx(3 * 40)


def test_time_left_of_a_resumed_cell_counts_its_new_updates(tmp_path):
    (cell, other) = cells(tmp_path, 100.0, 100.0)
    progress = RunProgress([cell, other], Console(quiet=True))
    assert progress.seconds_left() is None, "neither estimated nor measured"
    cell.state, cell.update = "running", 10
    cell.began = (time.monotonic() - 9.0, 0.45)  # resumed at half of its updates
    assert progress.seconds_left() == pytest.approx(9 / 45 * 110, rel=0.01)


def test_long_times_are_not_printed(tmp_path, capsys):
    progress = RunProgress(cells(tmp_path, 1e6, 60.0), Console(highlight=False, soft_wrap=True), 10.0)
    progress._log(progress.cells[0])
    progress.unfinished = progress.cells[1:]
    progress._log(progress.cells[0])
    progress.unfinished = []
    progress._log(progress.cells[0])
    lines = capsys.readouterr().out.splitlines()
    assert "(0/2, more than 14 days left)" in lines[0]
    assert "(1/2, about 10 min left)" in lines[1] and "(2/2)" in lines[2]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": []}'])
def test_damaged_files_change_no_state(cell, text):
    progress = RunProgress([cell], Console(quiet=True))
    with lock_cell(cell.folder.path):
        write_text(cell.folder.path / "result.json", text)
        progress.poll([cell])
    assert cell.state == "waiting"


def test_bars_are_shown_on_a_terminal(cell, capsys):
    console = Console(force_terminal=True, width=100)
    with RunProgress([cell], console) as progress, lock_cell(cell.folder.path):
        write(cell, status="running")
        cell.folder.write_history([LINE])
        progress.poll([cell])
        progress.bars.refresh()
    printed = capsys.readouterr().out
    assert "vae seed 0" in printed and "0/1 cells" in printed and "ELBO -2.50" in printed
