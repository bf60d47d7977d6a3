"""``bench run --tune`` in this process."""

import dataclasses
import json
import time
from functools import partial

import pandas as pd
import pytest

from bench.cli.main import main
from bench.experiment import worker
from bench.experiment.cell_folder import cell_folders
from bench.experiment.tuning.record import finished_cells, tunings
from bench.reporting.readme import Lookup
from tests.cli.conftest import assert_error, bench
from tests.experiment.processes import needs_fork, start


@pytest.fixture
def planted(toy, monkeypatch):
    """Trials by number, each with the NLL that is planted for it: the third is best on test, the fifth on validation.

    Yield the output folder and the list of (expression, split) that were evaluated.
    """
    evaluated, evaluate = [], worker.evaluate
    numbers = {}

    def evaluate_planted(method, model, data, train, config, seed, stored, save, *rest):
        number = numbers.setdefault((seed, train.lr), len(numbers))
        evaluated.append((number, config.split))
        nll = {"val": {4: 10.0}, "test": {2: 10.0}}[config.split].get(number, 20.0)
        evaluation = evaluate(method, model, data, train, config, seed, stored, lambda _: None, *rest)
        evaluation = dataclasses.replace(evaluation, record=evaluation.record.with_metrics({"nll": nll}))
        save(evaluation)

    monkeypatch.setattr(worker, "evaluate", evaluate_planted)
    yield toy, evaluated


def test_selection_sees_validation_and_never_test(planted):
    out, evaluated = planted
    assert bench(out, "--methods", "vae", "--tune", "5") == 0
    assert evaluated[:5] == [(number, "val") for number in range(5)]
    assert [split for _, split in evaluated[5:]] == ["test"]  # the selected settings alone, trained again
    (tuning,) = tunings(out)
    (search,) = tuning.searches
    cells = finished_cells(out, tuning)
    assert search.selected == 4 and search.final not in search.trials
    assert cells[search.final].config.method == cells[search.trials[4]].config.method
    trials = pd.read_csv(out / "tables" / "toy-quick-tuned5-trials.csv")
    assert trials["nll"].tolist() == [20, 20, 20, 20, 10] and trials["selected"].tolist() == [0, 0, 0, 0, 1]


def test_failed_trials_are_named_and_tried_again(toy, capsys, monkeypatch):
    evaluate, seeds = worker.evaluate, []

    def fail_in_the_second(method, model, data, train, config, seed, *rest):
        seeds.append(seed)
        if config.split == "val" and seed != seeds[0]:
            raise ArithmeticError("no evaluation")
        return evaluate(method, model, data, train, config, seed, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "evaluate", fail_in_the_second)
        assert bench(toy, "--methods", "vae", "--tune", "2") == 0
    printed = capsys.readouterr().out
    assert printed.count("trial failed, not selected: ") == 1 and "no evaluation" in printed
    assert bench(toy, "--methods", "vae", "--tune", "2") == 0
    printed = capsys.readouterr().out
    assert "2 trials, 1 done" in printed and "trial failed" not in printed


def test_rows_without_a_finished_trial_are_an_error(toy, capsys):
    assert bench(toy, "--methods", "vae", "--tune", "1", "--set", "train.lr=1e25") == 1
    printed = capsys.readouterr().out
    assert "trial failed" in printed and "no report: no readable cells" in printed


@pytest.mark.slow
def test_more_trials_train_only_what_is_new(toy, capsys):
    arguments = ("--methods", "beta_vae")
    assert bench(toy, *arguments, "--tune", "2") == 0
    before = {cell.path: (cell.path / "result.json").read_bytes() for cell in cell_folders(toy / "tuning")}
    capsys.readouterr()
    assert bench(toy, *arguments, "--tune", "3") == 0
    assert "3 trials, 2 done" in capsys.readouterr().out
    assert all((path / "result.json").read_bytes() == result for path, result in before.items())
    tuning = [*tunings(toy)][-1]
    for cell_id, cell in finished_cells(toy, tuning).items():  # finished trials keep their records alone
        names = {file.name for file in cell.folder.iterdir()}
        assert "best.pt" not in names or cell_id not in tuning.searches[0].trials
    table = pd.read_csv(toy / "tables" / "toy-quick-tuned3.csv").set_index("method")
    assert [*table.index] == ["beta_vae"] and table["n"].tolist() == [1]
    assert table["updates"].tolist() == [4 * 12]  # of three trials and the selected settings
    assert (toy / "tables" / "toy-quick-tuned2.csv").exists()
    assert Lookup(toy).untuned("toy-quick-tuned3") == {"beta_vae": "beta_vae(beta=0.4)"}
    assert main(["merge", str(toy), "--out", str(toy.parent / "merged")]) == 0
    merged = {file.name: file.read_bytes() for file in (toy.parent / "merged" / "tables").iterdir()}
    assert merged == {file.name: file.read_bytes() for file in (toy / "tables").iterdir()}
    again = {file: file.read_bytes() for file in (toy / "tables").iterdir()}
    assert main(["report", str(toy)]) == 0
    assert {file: file.read_bytes() for file in (toy / "tables").iterdir()} == again


@pytest.mark.slow
def test_optuna_suggests_from_the_trials_before(toy):
    """It is a function of the seed and of the results: an interrupted search goes on as if it had not been."""
    arguments = ("--methods", "beta_vae", "--search", "optuna")
    assert bench(toy, *arguments, "--tune", "3") == 0
    assert bench(toy, *arguments, "--tune", "4") == 0
    few, many = tunings(toy)
    assert many.searches[0].trials[:3] == few.searches[0].trials and len({*many.searches[0].trials}) == 4
    assert (toy / "tables" / "toy-quick-tuned4-optuna.csv").exists()


def test_wrong_options_of_tuning_are_one_line(toy, capsys):
    assert bench(toy, "--methods", "beta_vae", "--tune", "2", "--select", "mi_at_nll:0.5") == 2
    assert_error(capsys, "add vae to --methods")
    assert bench(toy, "--methods", "vae", "--tune", "0") == 2
    assert_error(capsys, "--tune must be")
    assert bench(toy, "--methods", "vae", "--tune", "2", "--dry-run") == 0
    assert not (toy / "tuning").exists()
    (toy / "tuning").mkdir(parents=True)
    (toy / "tuning" / "toy-quick-2-sobol-nll.json").write_text(json.dumps({"schema_version": 1}))
    assert main(["report", str(toy)]) == 2
    assert_error(capsys, "damaged")


@needs_fork
@pytest.mark.slow
def test_a_tuning_that_is_killed_twice_has_the_same_table(toy):
    arguments = (
        "--dataset",
        "text",
        "--methods",
        "autoregressive,vae,beta_vae,free_bits",
        "--seeds",
        "3",
        "--tune",
        "8",
    )
    undisturbed = toy.parent / "undisturbed"
    assert bench(undisturbed, *arguments) == 0
    for count in (15, 60):
        process = start(partial(bench, toy, *arguments))
        while process.is_alive() and len([*toy.glob("tuning/runs/*/*/*/*/evaluation.json")]) < count:
            time.sleep(0.02)
        process.kill()
        process.join()
    assert bench(toy, *arguments) == 0
    assert [*tunings(toy)] == [*tunings(undisturbed)]
    for name in ("toy-text-quick-tuned8.csv", "toy-text-quick-tuned8-trials.csv"):
        tables = [pd.read_csv(out / "tables" / name) for out in (toy, undisturbed)]
        seconds = [column for column in tables[0] if column.startswith("train_seconds")]
        pd.testing.assert_frame_equal(*(table.drop(columns=seconds) for table in tables), check_exact=True)
