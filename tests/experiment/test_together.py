"""Several runs at once on one output folder: no cell is trained twice, no file torn, all end alike."""

import os
from collections import Counter

import pytest

from bench.experiment import worker as cells
from bench.experiment.cell_folder import cell_folders
from tests.cli.test_run import bench, toy  # noqa: F401
from tests.experiment.kills import CELLS, FORK, assert_same, litter, numbers
from tests.experiment.test_kills import forks, linux, no_report, place, prepared_glyphs, whole  # noqa: F401


def together(runs, tmp_path, monkeypatch, report=False):
    """Call functions in processes forked from this one; their results, and how often each cell was trained.

    ``report``: whether they end with their reports, which takes longer than all else.
    """
    told, train = tmp_path / "told", cells.train

    def tell(task):
        with told.open("a") as file:
            file.write(f"{task['folder']}\n")
        return train(task)

    with monkeypatch.context() as patch:
        patch.setattr(cells, "train", tell)
        if not report:
            patch.setattr("bench.reporting.report.build", no_report)
        processes = [FORK.Process(target=lambda run=run: os._exit(run())) for run in runs]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
    return [process.exitcode for process in processes], Counter(told.read_text().splitlines())


@forks
def test_two_runs_of_the_same_cells_train_each_once(toy, tmp_path, monkeypatch):  # noqa: F811
    words = ["--methods", "vae,kl_annealing"]
    statuses, trained = together(2 * [lambda: bench(toy, *words, "--seeds", "2")], tmp_path, monkeypatch, report=True)
    assert statuses == [0, 0]
    assert len(trained) == 4 and {*trained.values()} == {1}
    assert not litter(toy)
    assert bench(tmp_path / "alone", *words, "--seeds", "2") == 0
    assert_same(numbers(toy), numbers(tmp_path / "alone"))


@forks
def test_two_runs_of_some_same_cells_share_these(toy, tmp_path, monkeypatch):  # noqa: F811
    runs = [
        lambda: bench(toy, "--methods", "vae,kl_annealing"),
        lambda: bench(toy, "--methods", "kl_annealing,beta_vae", "--seeds", "2"),
    ]
    statuses, trained = together(runs, tmp_path, monkeypatch)
    assert statuses == [0, 0]
    assert len(trained) == 5 and {*trained.values()} == {1}
    assert all(cell.trained() and cell.evaluation() for cell in cell_folders(toy)) and not litter(toy)


@forks
def test_two_runs_that_force_the_same_cells_each_train_them_and_lose_nothing(toy, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bench.reporting.report.build", no_report)
    words = ["--methods", "vae,kl_annealing"]
    assert bench(toy, *words) == 0
    before = numbers(toy)
    statuses, trained = together(2 * [lambda: bench(toy, *words, "--force")], tmp_path, monkeypatch)
    assert statuses == [0, 0]
    assert len(trained) == 2 and {*trained.values()} == {2}, "each was asked for its own"
    assert_same(numbers(toy), before)
    assert len(aside := [*toy.glob("runs/*/*/*/backup-*")]) == 4
    assert all((folder / "evaluation.json").exists() for folder in aside)


@linux
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_commands_started_together(place, whole):  # noqa: F811
    out, before = place.path / "four", len(place.telling())
    commands = [place.start(out) for _ in range(4)]
    ended = [command.end(600) for command in commands]
    assert [each.status for each in ended] == [0] * 4, ended
    told = Counter(place.telling()[before:])
    assert len(told) == 2 * CELLS and {*told.values()} == {1}, told
    assert not litter(out)
    assert_same(numbers(out), whole)
    tables = {each.said.partition("\n\n")[2] for each in ended}
    assert len(tables) == 1, "they print the same table"
    assert not any("Traceback" in each.said for each in ended)


@linux
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_one_of_four_is_made_good_by_the_others(place, whole):  # noqa: F811
    """They take over the cell that it was at, from its last checkpoint."""
    out = place.path / "three of four"
    commands = [place.start(out) for _ in range(4)]
    assert commands[0].await_training() and commands[0].send(9)
    ended = [command.end(600) for command in commands]
    assert [each.status for each in ended] == [-9, 0, 0, 0], ended
    assert not litter(out)
    assert_same(numbers(out), whole)
