"""Commands on stored cells: report, evaluate, audit, verify, merge."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from bench.cli.main import main
from bench.cli.verify import compare
from bench.core.files import read_json, write_json
from bench.experiment.cell_folder import CellFolder, cell_folders, lock_cell
from bench.experiment.queries import folders_below
from bench.training import registry
from tests.cli.conftest import assert_error, metrics, only_cell
from tests.fixtures import make_cells

CONVERGENCE = ["--metrics", "convergence", "--set", "evaluation.convergence_examples=2", "--executor", "local"]


def change(file, change) -> None:
    """Rewrite a JSON file after ``change`` of its content."""
    record = read_json(file)
    change(record)
    write_json(file, record)


def lower_nll(record: dict) -> None:
    record["evaluation"]["metrics"]["iw_nll"] -= 1


# ---- report


def test_report_rebuilds_the_tables(finished, capsys):
    table = (finished / "tables" / "toy-quick.csv").read_bytes()
    shutil.rmtree(finished / "tables")
    assert main(["report", str(finished)]) == 0
    assert (finished / "tables" / "toy-quick.csv").read_bytes() == table
    assert "toy, preset quick" in capsys.readouterr().out


def test_report_to_another_folder_only_reads(finished, tmp_path, capsys):
    shutil.rmtree(finished / "figures")
    before = {path: path.stat().st_mtime_ns for path in [finished, *finished.rglob("*")]}
    to = tmp_path / "new" / "report"
    assert main(["report", str(finished), "--to", str(to)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in [finished, *finished.rglob("*")]}
    for name in ("tables/toy-quick.csv", "tables/toy-quick.tex", "report.html"):
        assert (to / name).is_file()
    assert (to / "tables/toy-quick.csv").read_bytes() == (finished / "tables/toy-quick.csv").read_bytes()
    assert f"page: {to / 'report.html'}" in capsys.readouterr().out and {path.name for path in to.iterdir()} == {
        "report.html",
        "tables",
    }


@pytest.mark.parametrize("version", [1, 99])
def test_report_of_another_schema_version_is_an_error(finished, version, capsys):
    change(only_cell(finished, "vae").path / "config.json", lambda record: record.update(schema_version=version))
    assert main(["report", str(finished)]) == 2
    assert_error(capsys, f"schema version {version}")


# ---- evaluate


def test_evaluate_adds_a_group(finished, capsys):
    assert main(["evaluate", str(finished), *CONVERGENCE]) == 0
    assert "3 finished cells with weights, 3 of them to evaluate" in capsys.readouterr().out
    for cell in cell_folders(finished):
        groups = cell.evaluation().groups
        assert groups["convergence"].settings == {"examples": 2} and {"refined_iw", "latent_use"} <= groups.keys()
    assert "iw_nll_5000" in pd.read_csv(finished / "tables" / "toy-quick.csv")
    assert main(["evaluate", str(finished), *CONVERGENCE]) == 0
    assert "0 of them to evaluate" in capsys.readouterr().out


def test_evaluate_skips_cells_without_weights(finished, capsys):
    for cell in [*cell_folders(finished)][1:]:
        (cell.path / "best.pt").unlink()
    settings = ["--set", "evaluation.iw_samples=30", "--executor", "local"]
    before = metrics(finished)
    assert main(["evaluate", str(finished), "--metrics", "latent_use", *settings]) == 0
    assert "skipped: 2 finished cells without weights" in capsys.readouterr().out
    assert sum(metrics(finished)[path] != before[path] for path in before) == 1


def test_evaluate_waits_for_another_run(finished, capsys):
    cell = only_cell(finished, "vae")
    with ThreadPoolExecutor(1) as pool:
        with lock_cell(cell.path) as locked:
            assert locked
            waiting = pool.submit(main, ["evaluate", str(cell.path), *CONVERGENCE])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=2)
        assert waiting.result(timeout=120) == 0
    assert f"{cell.path}: waiting for another run" in capsys.readouterr().out
    assert "convergence" in cell.evaluation().groups


def test_wrong_argument_of_evaluate_is_one_line(finished, capsys, subtests):
    cases = [
        (["--metrics", "refined"], "--metrics has no group 'refined': did you mean 'refined_iw'?"),
        (["--metrics", "nll"], "its group is 'refined_iw'"),
        (["--metrics", " ,"], "give some of"),
        (["--set", "train.epochs=3"], "settings of the evaluation only"),
        (["--set", "evaluation.refined_iw_exmples=3"], "did you mean 'refined_iw_examples'"),
    ]
    for arguments, message in cases:
        with subtests.test(arguments=arguments):
            assert main(["evaluate", str(finished), *arguments, "--executor", "local"]) == 2
            assert_error(capsys, message)


# ---- audit


def test_audit_doubles_the_updates_and_resumes(finished, capsys):
    assert main(["audit", str(finished), "--executor", "local"]) in (0, 1)
    assert "1 cells to audit, 1 of them to train" in capsys.readouterr().out
    (cell,) = cell_folders(finished / "audit")
    assert cell.result().training.updates == 24 and not cell.evaluation().groups
    (original,) = finished.glob(f"runs/*/*/{cell.path.parent.name}/*")
    pairs = zip(CellFolder(original).history(), cell.history(), strict=False)
    assert all((before.metrics["elbo"], before.beta) == (after.metrics["elbo"], after.beta) for before, after in pairs)
    weights = (cell.path / "best.pt").stat().st_mtime_ns
    (cell.path / "evaluation.json").unlink()
    status = main(["audit", str(finished), "--executor", "local"])
    (row,) = pd.read_csv(finished / "tables" / "audit.csv").itertuples()
    assert (cell.path / "best.pt").stat().st_mtime_ns == weights and cell.evaluation()
    assert (row.table, row.updates_before, row.updates_after) == ("toy-quick", 12, 24)
    assert status == 1 - row.passed and f"{row.passed} of 1 audited cells pass" in capsys.readouterr().out
    assert f"Audit: {row.passed} of 1 cells" in (finished / "tables" / "toy-quick.md").read_text("utf-8")
    assert [*map(len, map(folders_below, (finished, finished / "audit")))] == [3, 1]


def test_audit_without_cells_is_an_error(toy, capsys):
    assert main(["audit", str(toy)]) == 2
    assert_error(capsys, "no finished cells")
    assert main(["audit", str(toy), "--rows", "vae"]) == 2
    assert_error(capsys, "--rows vae: no cell has this method")
    assert main(["audit", str(toy), "--share", "0"]) == 2
    assert_error(capsys, "--share must be above 0")
    assert main(["audit", str(toy), "--unconverged"]) == 2
    assert_error(capsys, "no finished cells")


# ---- verify


@pytest.mark.parametrize("retrain", [[], ["--retrain"]], ids=["evaluated", "trained"])
def test_verify_reproduces_every_number(finished, capsys, retrain):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert main(["verify", str(finished), *retrain]) == 0
    printed = capsys.readouterr().out
    assert printed.count("equal, bit for bit") == 3 and "3 of 3 cells match" in printed
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_verify_finds_a_changed_number(finished, capsys):
    cell = only_cell(finished, "vae")
    change(cell.path / "evaluation.json", lower_nll)
    change(cell.path / "result.json", lambda record: record["provenance"]["machine"].update(processor="Z80"))
    assert main(["verify", str(cell.path)]) == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed and "iw_nll: stored" in printed and "other weights" not in printed
    assert main(["verify", str(cell.path), "--retrain"]) == 1
    printed = capsys.readouterr().out
    assert "machine: stored" in printed and "other weights" in printed


def test_verify_without_weights_needs_retraining(finished, capsys):
    cell = only_cell(finished, "vae")
    (cell.path / "best.pt").unlink()
    assert main(["verify", str(finished)]) == 1
    printed = capsys.readouterr().out
    assert "--retrain trains it again" in printed and "2 of 3 cells match" in printed


def test_damaged_weights_are_named_and_not_trained_again(finished, capsys):
    cell = only_cell(finished, "vae")
    (cell.path / "best.pt").write_bytes((cell.path / "best.pt").read_bytes()[:500])
    before = cell.evaluation()
    assert main(["verify", str(cell.path)]) == 1
    assert "not verified: failed: " in capsys.readouterr().out
    assert main(["evaluate", str(finished), *CONVERGENCE]) == 1
    assert "best.pt" in capsys.readouterr().out and cell.evaluation() == before
    assert not [*cell.path.parent.glob("*.bak-*")]


def test_verify_needs_the_same_method_revision(finished, capsys, monkeypatch):
    monkeypatch.setattr(registry.method("vae"), "revision", 2)
    assert main(["verify", str(only_cell(finished, "vae").path)]) == 1
    assert "revision 2" in capsys.readouterr().out


def test_rounding_differs_from_a_difference():
    verdicts = [compare(10.0, now) for now in (10.0, 10.0005, 10.1, None)]
    assert verdicts == ["equal", "close", "differs", "differs"] and compare(True, False) == "differs"


# ---- merge


@pytest.fixture
def parts(finished, tmp_path):
    """The cells of vae and of beta_vae in an output folder each."""
    folders = []
    for removed in ("beta_vae*", "vae"):
        folder = shutil.copytree(finished, tmp_path / removed.strip("*"))
        for path in (folder / "runs" / "toy" / "quick").glob(removed):
            shutil.rmtree(path)
        folders.append(folder)
    return folders


def test_merge_makes_one_table(parts, finished, tmp_path, capsys):
    out = tmp_path / "merged"
    make_cells.write_audit(parts[0], "vae")
    assert main(["merge", *map(str, parts), "--out", str(out)]) == 0
    assert "4 cells in" in capsys.readouterr().out and len([*cell_folders(out / "audit")]) == 1
    assert metrics(out) == metrics(finished)
    table = pd.read_csv(out / "tables" / "toy-quick.csv")
    assert [*table.method] == [*pd.read_csv(finished / "tables" / "toy-quick.csv").method], "the sweep is known too"
    assert main(["merge", *map(str, parts), "--out", str(out)]) == 0
    assert "0 of them copied" in capsys.readouterr().out


def test_merge_takes_tuned_cells_that_equal_untuned_ones(finished, tmp_path):
    shutil.copytree(finished / "runs", finished / "tuning" / "runs")
    assert main(["merge", str(finished), "--out", str(tmp_path / "merged")]) == 0
    assert len([*cell_folders(tmp_path / "merged" / "tuning")]) == len([*cell_folders(finished)]) == 3


def test_merge_prefers_a_trained_cell_and_keeps_weights(parts, finished, tmp_path):
    planned, cell = only_cell(parts[0], "vae").path, only_cell(finished, "vae").path
    for file in planned.iterdir():
        if file.name != "config.json":
            file.unlink()
    change(cell / "evaluation.json", lambda record: record["evaluation"]["metrics"].pop("nll", None))
    merged = tmp_path / "merged"
    assert main(["merge", str(parts[0]), str(finished), "--out", str(merged)]) == 0
    assert only_cell(merged, "vae").is_trained() and only_cell(merged, "vae").has_weights()
    change(cell / "evaluation.json", lambda record: record["evaluation"]["metrics"].update(nll=1.0))
    (cell / "best.pt").unlink()
    assert main(["merge", str(finished), "--out", str(merged)]) == 0
    assert only_cell(merged, "vae").evaluation().metrics["nll"] == 1 and only_cell(merged, "vae").has_weights()


def test_merge_prefers_the_cell_with_more_metrics(parts, finished):
    cell = only_cell(parts[0], "vae")
    (cell.path / "evaluation.json").unlink()
    assert main(["merge", str(finished), "--out", str(parts[0])]) == 0
    assert cell.evaluation() is not None
    assert len([*cell.path.parent.glob("*.bak-*")]) == 1


def test_merge_skips_a_cell_in_use(parts, tmp_path, capsys):
    cell = only_cell(parts[0], "vae").path
    target = tmp_path / "merged" / cell.relative_to(parts[0])
    with lock_cell(target):
        assert main(["merge", *map(str, parts), "--out", str(tmp_path / "merged")]) == 0
    assert f"skipped: {target}" in capsys.readouterr().out and not target.exists()
