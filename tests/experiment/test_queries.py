"""Around the table: trained cells loaded, evaluated further, verified and merged."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.cli.main import main
from bench.core.errors import UserError
from bench.core.files import read_json, write_json
from bench.evaluation.registry import metric_groups
from bench.experiment.cell_folder import CellFolder, lock_cell
from bench.experiment.factory import build_from_config, load_trained
from bench.experiment.worker import run_cell
from bench.training import registry
from tests.conftest import TEXT_TOY, TOY, planner, tasks


@pytest.fixture(scope="module")
def out(prepared, tmp_path_factory):
    """A folder with two finished cells of one table, and the data in the cache that the commands look into."""
    folder = tmp_path_factory.mktemp("stored") / "out"
    for expression in ("vae", "beta_vae(beta=0.5)"):
        run_cell(tasks(prepared)(planner(prepared, TOY, folder)(expression)))
    return folder


@pytest.fixture
def copy(out, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(prepared.path.parent))
    return shutil.copytree(out, tmp_path / "copy")


def only(out, method: str) -> CellFolder:
    (path,) = (out / "runs" / "toy" / "toy").glob(f"{method}*/seed-*")
    return CellFolder(path)


# -- load ----------------------------------------------------------------------------------------------------------


def test_a_loaded_cell_encodes_decodes_samples_and_knows_its_numbers(copy):
    cell = bench.load(only(copy, "vae").path)
    images = cell.data.test[:5]
    q = cell.encode(images)
    assert q.mean.shape == (5, 3) and q.rsample(2).shape == (5, 2, 3)
    assert torch.equal(q.mean, cell.encode(images.squeeze(1).numpy()).mean)
    np.testing.assert_allclose(q.mean[0], np.load(cell.folder.path / "arrays.npz")["means"][0], atol=1e-5)
    pictures = cell.decode(q.mean)
    assert pictures.shape == (5, 7, 7) and {*pictures.unique().tolist()} <= {0.0, 1.0}
    assert torch.equal(cell.sample(4, seed=1), cell.sample(4, seed=1))
    assert not torch.equal(cell.sample(4, seed=1), cell.sample(4, seed=2))
    assert cell.metrics["nll"] == cell.folder.evaluation()["metrics"]["nll"]
    assert cell.nll(images).shape == (5,) and len(cell.examples) == 20


def test_a_loaded_cell_of_text_reads_and_writes_sentences(text_prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(text_prepared.path.parent))
    planned = planner(text_prepared, TEXT_TOY, tmp_path)("vae")
    run_cell(tasks(text_prepared)(planned))
    cell = bench.load(planned.folder.path)
    rows = cell.tensor(["word1 word2", "word3 nonsense word4"])
    assert cell.data.sentences(rows) == ["word1 word2", "word3 <unk> word4"]
    q = cell.encode(["word1 word2", "word3 nonsense word4"])
    assert q.mean.shape == (2, 2)
    assert all(isinstance(text, str) for text in [*cell.decode(q.mean), *cell.sample(3)])
    assert (cell.nll(["word1 word2"], samples=10) > 0).all()


def test_texts_are_refused_by_a_model_of_images(copy):
    with pytest.raises(UserError, match="not texts"):
        bench.load(only(copy, "vae").path).encode(["a sentence"])


WEIGHTS = {
    "of another model": {"model": {"weight": torch.zeros(1)}, "method": {}},
    "not of a model": {"weight": torch.zeros(1)},
    "a list for a model": {"model": [1, 2], "method": {}},
    "nothing for a model": {"model": None, "method": {}},
    "numbers for tensors": {"model": {"encoder.weight": 1.0}, "method": {}},
    "numbers for names": {"model": {1: torch.zeros(1)}, "method": {}},
}


@pytest.mark.parametrize("harm", ["nothing there", "no weights", "not trained", *WEIGHTS])
def test_a_cell_that_cannot_be_loaded_says_why(copy, harm):
    folder = only(copy, "vae")
    if harm == "no weights":
        (folder.path / "best.pt").unlink()
    elif harm == "not trained":
        write_json(folder.path / "result.json", folder.result() | {"status": "running"})
    elif harm in WEIGHTS:
        torch.save(WEIGHTS[harm], folder.path / "best.pt")
    path = folder.path / "elsewhere" if harm == "nothing there" else folder.path
    message = {"nothing there": "no cell in", "no weights": "weights", "not trained": "not trained"}
    message = message.get(harm, "another model")
    with pytest.raises(UserError, match=message):
        bench.load(path)


def test_the_state_of_another_method_is_refused_in_one_line(planned):
    cell = planned("aggressive")
    cell.folder.write_config(cell.config)
    method, model, _ = build_from_config(cell.config)
    torch.save({"model": model.state_dict(), "method": method.state_dict()}, cell.folder.path / "best.pt")
    load_trained(cell.folder, cell.config)
    torch.save({"model": model.state_dict(), "method": {}}, cell.folder.path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt holds another model or method than .* train it anew"):
        load_trained(cell.folder, cell.config)


# -- frame ---------------------------------------------------------------------------------------------------------


def test_a_frame_has_a_row_for_every_cell(copy):
    frame = bench.frame(copy)
    assert sorted(frame["method"]) == ["beta_vae(beta=0.5)", "vae"]
    row = frame[frame["method"] == "vae"].iloc[0]
    assert (row["dataset"], row["preset"], row["status"]) == ("toy", "toy", "ok")
    assert row["nll_refined"] == CellFolder(copy / row["folder"]).evaluation()["metrics"]["nll_refined"]


# -- evaluate ------------------------------------------------------------------------------------------------------


def test_evaluate_fills_a_group_into_finished_cells(copy, capsys):
    settings = ["--set", "evaluation.convergence_examples=2", "--executor", "local"]
    assert main(["evaluate", str(copy), "--metrics", "convergence", *settings]) == 0
    assert "2 finished cells with weights, 2 of them to evaluate" in capsys.readouterr().out
    for method in ("vae", "beta_vae"):
        record = only(copy, method).evaluation()
        assert record["groups"]["convergence"]["settings"] == {"examples": 2}
        assert {"refined_iw", "latent_use"} <= record["groups"].keys(), "what was there is gone"
    assert "nll_5000" in (copy / "tables" / "toy-toy.csv").read_text().splitlines()[0]
    assert main(["evaluate", str(copy), "--metrics", "convergence", *settings]) == 0
    assert "0 of them to evaluate" in capsys.readouterr().out


def test_evaluate_with_other_basic_settings_measures_the_groups_anew(copy):
    arguments = [
        "--metrics",
        "latent_use",
        "--set",
        "evaluation.iw_samples=30",
        "--set",
        "evaluation.refined_iw_examples=3",
    ]
    before = only(copy, "vae").evaluation()
    assert main(["evaluate", str(copy), *arguments, "--executor", "local"]) == 0
    after = only(copy, "vae").evaluation()
    assert after["config"]["iw_samples"] == 30 and after["metrics"]["nll"] != before["metrics"]["nll"]
    assert after["groups"].keys() == before["groups"].keys()


def test_evaluate_one_cell_and_leave_out_those_without_weights(copy, capsys):
    (only(copy, "beta_vae").path / "best.pt").unlink()
    arguments = ["--metrics", "convergence", "--set", "evaluation.convergence_examples=2", "--executor", "local"]
    assert main(["evaluate", str(copy), *arguments]) == 0
    assert "left out: 1 finished cells without weights" in capsys.readouterr().out
    assert main(["evaluate", str(only(copy, "vae").path), *arguments]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "comon"], "--metrics 'comon': give some of common"),
        (["--metrics", " ,"], "give some of common"),
        (["--set", "train.epochs=3"], "settings of the evaluation"),
        (["--set", "evaluation.common_exmples=3"], "did you mean 'refined_iw_examples'"),
    ],
)
def test_mistakes_are_told_in_one_line(copy, capsys, arguments, message):
    assert main(["evaluate", str(copy), *arguments, "--executor", "local"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# -- verify --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retrain", [[], ["--retrain"]], ids=["evaluated", "trained"])
def test_numbers_that_hold_are_equal_bit_for_bit(copy, capsys, retrain):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert main(["verify", str(copy), *retrain]) == 0
    said = capsys.readouterr().out
    assert said.count("equal, bit for bit") == 2 and "2 of 2 cells hold" in said
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}


def test_a_number_that_was_changed_is_found(copy, capsys):
    folder = only(copy, "vae")
    record = folder.evaluation()
    record["metrics"]["nll"] -= 1
    write_json(folder.path / "evaluation.json", record)
    assert main(["verify", str(folder.path)]) == 1
    said = capsys.readouterr().out
    assert "DIFFERS" in said and "nll: stored" in said
    assert said.startswith("/".join(folder.path.parts[-4:]))  # the data set too: one list may hold several
    assert "seed" not in said.partition("\n")[2]


def test_a_number_from_another_processor_is_no_fault(copy, capsys):
    folder = only(copy, "vae")
    for name, change in (("evaluation.json", lambda r: r["metrics"].update(nll=r["metrics"]["nll"] - 1)),
                         ("result.json", lambda r: r["provenance"]["machine"].update(processor="Z80"))):  # fmt: skip
        record = read_json(folder.path / name)
        change(record)
        write_json(folder.path / name, record)
    assert main(["verify", str(folder.path), "--retrain"]) == 1
    assert "a draw as of another seed" in capsys.readouterr().out


def test_rounding_is_told_from_a_difference():
    assert verify.Comparison("nll", 10.0, 10.0).verdict == "equal"
    assert verify.Comparison("nll", 10.0, 10.0005).verdict == "close"
    assert verify.Comparison("nll", 10.0, 10.1).verdict == "differs"
    assert verify.Comparison("collapsed", True, False).verdict == "differs"
    assert verify.Comparison("au", 3, None).verdict == "differs"


def test_without_weights_only_training_again_can_verify(copy, capsys):
    folder = only(copy, "vae")
    (folder.path / "best.pt").unlink()
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr().out
    assert "--retrain trains it again" in said and "1 of 2 cells hold" in said
    assert main(["verify", str(folder.path), "--retrain"]) == 0


@pytest.mark.parametrize("arguments", [[], ["--retrain"]])
def test_a_cell_of_another_revision_of_its_method_is_not_judged_by_this_one(copy, capsys, monkeypatch, arguments):
    monkeypatch.setattr(registry.method("vae"), "revision", 2)
    assert main(["verify", str(copy), *arguments]) == 1
    assert "vae revision 1, this code has revision 2: train it anew" in capsys.readouterr().out


def test_a_cell_of_another_protocol_is_not_trained_again(copy, capsys):
    folder = only(copy, "vae")
    write_json(folder.path / "config.json", folder.config | {"protocol_version": 1})
    assert main(["verify", str(folder.path), "--retrain"]) == 1
    assert "not verified: trained by protocol 1 and commit" in capsys.readouterr().out


# -- merge ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def halves(copy, tmp_path):
    """The two cells in a folder each."""
    halves = []
    for method, other in (("vae", "beta_vae"), ("beta_vae", "vae")):
        half = shutil.copytree(copy, tmp_path / method)
        shutil.rmtree(only(half, other).path.parent)
        halves.append(half)
    return halves


def test_folders_merge_into_one_table(halves, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["merge", *map(str, halves), "--out", str(out)]) == 0
    assert "2 cells in" in capsys.readouterr().out
    assert len((out / "tables" / "toy-toy.csv").read_text().splitlines()) == 3
    assert main(["merge", *map(str, halves), "--out", str(out)]) == 0, "the same again"
    assert "0 of them copied" in capsys.readouterr().out


def test_folders_merge_into_the_one_at_hand(halves, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["merge", *map(str, halves), "--out", "."]) == 0
    assert len(bench.frame(".")) == 2
    assert main(["merge", str(halves[0]), "--out", str(halves[0] / "within")]) == 2


def test_the_cell_that_is_further_wins_and_nothing_is_lost(halves, copy, tmp_path):
    first, _ = halves
    folder = only(first, "vae")
    (folder.path / "evaluation.json").unlink()
    assert main(["merge", str(copy), "--out", str(first)]) == 0
    assert only(first, "vae").evaluation() is not None
    assert [path.name for path in folder.path.parent.glob("backup-*")]


def test_two_results_of_one_cell_that_differ_are_refused(halves, copy, tmp_path, capsys):
    folder = only(halves[0], "vae")
    record = folder.evaluation()
    record["metrics"]["nll"] -= 1
    write_json(folder.path / "evaluation.json", record)
    assert main(["merge", str(copy), str(halves[0]), "--out", str(tmp_path / "merged")]) == 2
    assert "two results of one cell differ: nll" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_what_could_not_share_a_table_is_refused(halves, tmp_path, capsys):
    folder = only(halves[1], "beta_vae")
    config = json.loads((folder.path / "config.json").read_text())
    config |= {"protocol_version": 1, "train": config["train"] | {"lr": 2 * config["train"]["lr"]}}
    write_json(folder.path / "config.json", config)
    assert main(["merge", *map(str, halves), "--out", str(tmp_path / "merged")]) == 2
    assert "differ in protocol_version, train.lr" in capsys.readouterr().err


def test_groups_that_only_one_result_has_are_kept_or_named(halves, copy, tmp_path, capsys):
    settings = ["--set", "evaluation.convergence_examples=2", "--executor", "local"]
    main(["evaluate", str(only(halves[0], "vae").path), "--metrics", "convergence", *settings])
    assert main(["merge", str(copy), str(halves[0]), "--out", str(tmp_path / "merged")]) == 0
    assert "convergence" in only(tmp_path / "merged", "vae").evaluation()["groups"]


def test_cells_judged_with_other_settings_are_not_merged(halves, copy, tmp_path, capsys):
    arguments = ["--metrics", "latent_use", "--set", "evaluation.iw_samples=30", "--executor", "local"]
    main(["evaluate", str(only(halves[0], "vae").path), *arguments])
    assert main(["merge", str(copy), str(halves[0]), "--out", str(tmp_path / "merged")]) == 2
    assert "judged with other settings (iw_samples)" in capsys.readouterr().err


# -- what is damaged -----------------------------------------------------------------------------------------------


def test_halves_of_two_evaluations_are_not_taken_for_one(copy):
    folder = only(copy, "vae")
    whole = folder.evaluation()
    file = folder.path / "examples.parquet"
    pd.read_parquet(file).head(7).to_parquet(file, index=False)
    settings = ["--set", "evaluation.convergence_examples=2", "--executor", "local"]
    assert main(["evaluate", str(folder.path), "--metrics", "convergence", *settings]) == 0
    after = folder.evaluation()
    assert len(pd.read_parquet(file)) == 20 and {*whole["groups"]} < {*after["groups"]}
    assert {name: after["metrics"][name] for name in whole["metrics"]} == whole["metrics"]


def test_a_damaged_record_is_left_out_with_its_name(copy, capsys):
    for name in ("evaluation.json", "result.json"):
        (only(copy, "vae").path / name).write_text("{")
        for command in (verify.main, lambda arguments: main(["evaluate", *arguments, "--executor", "local"])):
            assert command([str(copy)]) == 0
            assert f"({name} is damaged)" in capsys.readouterr().out
    assert bench.frame(copy)["status"].tolist().count("damaged") == 1


def broken(trained, settings):
    raise RuntimeError("out of order")


def test_a_group_that_fails_costs_no_other(copy, monkeypatch, capsys):
    monkeypatch.setitem(vars(metric_groups()["ais"]), "measure", broken)
    arguments = ["--metrics", "ais,convergence", "--set", "evaluation.convergence_examples=2"]
    assert main(["evaluate", str(only(copy, "vae").path), *arguments, "--executor", "local"]) == 1
    assert "RuntimeError: out of order" in capsys.readouterr().out
    assert "convergence" in only(copy, "vae").evaluation()["groups"]


def test_groups_are_not_forgotten_where_new_basic_metrics_come_and_one_fails(copy, monkeypatch):
    folder = only(copy, "vae")
    before = folder.evaluation()
    other = ["--set", "evaluation.iw_samples=30", "--executor", "local"]
    with monkeypatch.context() as patch:
        patch.setitem(vars(metric_groups()["refined_iw"]), "measure", broken)
        assert main(["evaluate", str(folder.path), "--metrics", "latent_use", *other]) == 1
    assert {*folder.evaluation()["groups"]} == {"latent_use"} and {*folder.evaluation()["pending"]} == {"refined_iw"}
    assert main(["evaluate", str(folder.path), "--metrics", "latent_use", "--executor", "local"]) == 0
    after = folder.evaluation()
    assert {*after["groups"]} == {*before["groups"]} and not after["pending"]
    assert after["groups"]["refined_iw"]["settings"] == before["groups"]["refined_iw"]["settings"]


def test_a_frame_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no stored cells"):
        bench.frame(tmp_path)


def test_evaluating_says_that_another_run_is_at_a_cell_and_waits_for_it(copy, capsys):
    folder = only(copy, "vae")
    settings = ["--metrics", "convergence", "--set", "evaluation.convergence_examples=2", "--executor", "local"]
    with ThreadPoolExecutor(1) as pool:
        with lock_cell(folder.path) as mine:
            assert mine
            waiting = pool.submit(main, ["evaluate", str(copy), *settings])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=8)
        assert waiting.result(timeout=60) == 0
    assert f"{folder.path}: another run is at it, waited for" in capsys.readouterr().out
    assert "convergence" in folder.evaluation()["groups"]
