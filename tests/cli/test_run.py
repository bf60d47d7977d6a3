"""``bench run`` in this process: train, evaluate, report; run again; failures; wrong arguments."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.run import main
from bench.training import registry
from bench.training.expressions import missing_controls, parse_methods
from tests.cli.conftest import TOY, assert_error, bench, metrics, only_cell

ROOT = Path(__file__).parents[2]
OLD_CODE = f"{sys.version_info.major}.{sys.version_info.minor} 000000000000"


def test_image_run_writes_table_figures_and_page(finished_run):
    out, printed = finished_run.out, finished_run.printed
    assert finished_run.status == 0
    assert "3 cells to run, 1 at a time" in printed and "(3/3)" in printed
    table = pd.read_csv(out / "tables" / "toy-quick.csv")
    assert [*table.method[:3]] == ["vae", "beta_vae(beta=0.2)", "beta_vae(beta=0.4)"]
    assert "beta_vae(beta=0.2|0.4)" in table.method[3] and "validation" in table.method[3]
    assert np.isfinite(table.iw_nll).all() and table.relative_cost[0] == 1
    assert {"mi", "au", "nll", "train_seconds"} <= {*table.columns}
    assert (out / "report.html").exists()
    figures = {path.stem for path in (out / "figures" / "toy-quick").iterdir()}
    assert {"dynamics", "rate_distortion", "gaps", "reconstructions", "samples"} <= figures
    cell = only_cell(out, "vae")
    assert {path.name for path in cell.path.iterdir()} == {
        "config.json", "history.jsonl", "result.json", "evaluation.json", "examples.parquet", "arrays.npz",
        "last.pt", "previous.pt", "best.pt", "attempts.json",
    }  # fmt: skip
    examples = pd.read_parquet(cell.path / "examples.parquet")
    assert len(examples) == 20 and examples.iw_nll.mean() == pytest.approx(cell.evaluation().metrics["iw_nll"])


def test_second_run_trains_nothing(finished, capsys):
    assert_nothing_is_trained(finished, capsys)


def test_without_ignored_files_nothing_is_trained(finished, capsys):
    """Git keeps the records, tables and PNG figures of ``results/``, without weights; a later run continues there."""
    names = {f"results/{file.relative_to(finished)}" for file in finished.rglob("*") if file.is_file()}
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", "--stdin"]
    process = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, check=False)
    if process.returncode > 1:
        pytest.skip("no git repository")
    ignored = process.stdout.splitlines()
    records = ("config.json", "history.jsonl", "result.json", "evaluation.json", "examples.parquet", "arrays.npz")
    kept = names - {*ignored}
    assert {Path(name).name for name in kept if "/runs/" in name} == {*records}
    assert {Path(name).suffix for name in kept if "/runs/" not in name} == {".json", ".csv", ".md", ".tex", ".png"}
    for name in ignored:
        (finished / name.removeprefix("results/")).unlink()
    assert_nothing_is_trained(finished, capsys)


def assert_nothing_is_trained(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run again: no cell runs, no record is written, and the tables are the same."""
    records = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    tables = {path: path.read_bytes() for path in (out / "tables").iterdir()}
    assert bench(out, "--methods", "vae,beta_vae(beta=0.2|0.4)") == 0
    printed = capsys.readouterr().out
    assert "3 done" in printed and "to run" not in printed and "beta_vae" in printed
    assert "other code" not in printed
    assert records == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    assert tables == {path: path.read_bytes() for path in (out / "tables").iterdir()}


def test_run_warns_of_cells_of_other_code(finished, capsys):
    folder = only_cell(finished, "vae")
    assert [*folder.result().code] == ["bench.methods.vae"]
    folder.write_record("result.json", folder.result().model_copy(update={"code": {"bench.methods.vae": OLD_CODE}}))
    assert bench(finished, "--methods", "vae,beta_vae(beta=0.2|0.4)") == 0
    assert "1 stored cell of this run used other code of methods/vae.py: if" in capsys.readouterr().out


@pytest.mark.slow
def test_model_brings_training_settings_below_those_of_set(toy):
    """A Transformer is not trained by SGD; what the user sets has precedence."""
    assert bench(toy, *"--methods vae --dataset text --model transformer(width=8) --set train.lr=0.02".split()) == 0
    config = only_cell(toy, "vae").config
    assert (config.train.optimiser, config.train.lr) == ("adam", 0.02)
    assert {"train.optimiser = adam (preset: sgd)", "train.lr = 0.02 (preset: 1.0)"} <= {*config.preset_notes}


def test_cell_does_not_depend_on_other_cells(finished_run, toy):
    assert bench(toy, "--methods", "kl_annealing,vae") == 0
    expected, new = metrics(finished_run.out), metrics(toy)
    (common,) = expected.keys() & new.keys()
    assert len(new) == 2 and new[common] == expected[common]


def test_other_evaluation_settings_need_no_training(finished, capsys):
    cell = only_cell(finished, "vae")
    weights, result = (cell.path / "best.pt").read_bytes(), cell.result()
    arguments = ("--methods", "vae", "--set", "evaluation.iw_samples=9")
    assert bench(finished, *arguments, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "  to evaluate: " in printed and "1 of them trained: only their evaluation" in printed
    assert bench(finished, *arguments) == 0
    assert cell.evaluation().settings.iw_samples == 9
    assert (cell.path / "best.pt").read_bytes() == weights and cell.result() == result


def test_force_and_damage_archive_the_cell(finished, capsys):
    before = metrics(finished)
    assert bench(finished, "--methods", "vae", "--force") == 0
    (only_cell(finished, "vae").path / "result.json").write_text("{torn")
    assert bench(finished, "--methods", "vae") == 0
    assert "archived and trained again (result.json is damaged" in capsys.readouterr().out
    assert metrics(finished) == before
    backups = [path.read_text() for path in finished.glob("runs/*/*/vae/*.bak-*/result.json")]
    assert len(backups) == 2 and "{torn" in backups


def test_controls_are_added_to_a_comparison(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*") if path.is_file()}
    for methods, added in [(["vae"], 0), (["vae", "beta_vae"], 3), (["vae", "autoencoder"], 2), (["controls"], 0)]:
        assert len(missing_controls(parse_methods(methods, "quick")[0], "quick")) == added
    assert bench(finished, "--controls", "--methods", "vae,beta_vae(beta=0.2)") == 0
    printed = capsys.readouterr().out
    assert "5 methods (3 controls added) × 1 seed = 5 cells, 2 done" in printed and "\nAssay " in printed
    after = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*")}
    assert before.items() <= after.items(), "finished cells are not run again"
    table = pd.read_csv(finished / "tables" / "toy-quick.csv")
    assert {"autoregressive", "autoencoder", "shuffled_encoder", "vae"} < {*table.method}


def test_dry_run_prints_the_plan_and_writes_nothing(toy, capsys):
    assert bench(toy, "--methods", "core", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "6 cells to run" in printed and "about" in printed and "sa_vae" in printed
    assert not any(toy.iterdir())


def test_run_of_weeks_needs_other_machines(toy, capsys, monkeypatch):
    """No number of days is printed, which for a wrong estimate has four digits."""
    for seconds, text in [(3e4, "on this machine: about 9 days\n"), (1e6, "more than 14 days, so it needs a GPU or")]:
        monkeypatch.setattr("bench.experiment.runtime_estimate.seconds_per_update", lambda *_, unit=seconds: unit)
        assert bench(toy, "--methods", "vae", "--dry-run") == 0
        assert text in capsys.readouterr().out


def test_failed_cell_is_reported_and_retried(toy, capsys, monkeypatch):
    def fail(self, terms):
        raise FloatingPointError("out of numbers")

    with monkeypatch.context() as patch:
        patch.setattr(registry.method("beta_vae"), "kl_loss", fail)
        assert bench(toy, "--methods", "beta_vae,vae") == 1
    printed = capsys.readouterr().out
    assert "failed: beta_vae(beta=0.4) seed 0: FloatingPointError: out of numbers" in printed
    assert "out of numbers" in (toy / "tables" / "toy-quick.md").read_text()
    assert bench(toy, "--methods", "beta_vae,vae") == 0


def test_wrong_argument_is_one_line_and_status_2(tmp_path, capsys, subtests):
    cases = [
        (["--methods", "agressive"], "did you mean 'aggressive'?"),
        (["--methods", "vae("], "cannot read"),
        (["--methods", ","], "--methods is empty"),
        (["--dataset", "omniglott"], "unknown data set 'omniglott': did you mean 'omniglot'?"),
        (["--preset", "quik"], "did you mean 'quick'?"),
        (["--seeds", "0"], "--seeds must be a whole number from 1 to 100,000, not 0"),
        (["--seed", "-1"], "--seed must be a whole number from 0"),
        (["--cpus-per-cell", "0"], "--cpus-per-cell must be"),
        (["--gpus-per-cell", "1.5"], "a fraction of one GPU or a whole number"),
        (["--set", "vae.foo=1"], "no setting 'foo'"),
        (["--set", "sa_vae.stps=1", "--methods", "sa_vae"], "did you mean 'steps'?"),
        (["--set", "nonsense"], "write method.setting=value or train.lr=0.01"),
        (["--data-dir", "nowhere"], "'nowhere' does not exist"),
        (["--methods", "SA-VAE(steps=2)"], "did you mean 'sa_vae'?"),
        (["--methods", "vae+free-bits"], "did you mean 'free_bits'?"),
        (["--dataset", "Omniglot"], "did you mean 'omniglot'?"),
        (["--set", "train.lr="], "--set train.lr= has no value: write one"),
        (["--out="], "argument --out: the path is empty: write . for the working folder"),
        (["--data-dir="], "argument --data-dir: the path is empty: write . for the working folder"),
        (["--datset", "glyphs"], "unknown option '--datset': did you mean '--dataset'?"),
        (["--dry_run"], "unknown option '--dry_run': did you mean '--dry-run'?"),
        (
            ["--methods", "vae", "beta_vae"],
            "'beta_vae' belongs to no option: write --name value, with values joined by commas",
        ),
        (["--jobs", "3"], "unknown option '--jobs': there are --address, --compile, --controls, --cpus-per-cell, "),
        (["--set", "lr=3"], "cannot read --set lr=3: did you mean train.lr=3?"),
        (["--seeds", "1.5"], "argument --seeds: write a whole number, not '1.5'"),
        (["--device", "gpu"], "argument --device: invalid choice: 'gpu' (choose from 'auto', 'cpu', 'cuda')"),
        (["--executor", "local", "--address", "head:1"], "--address contradicts --executor local"),
        (["--out"], "argument --out: expected one argument; 'python -m bench run --help'"),
        (["--out", "~nobody-here/o"], "write the whole path, or ./~nobody-here/o"),
        *(([f"--{option}="], f"--{option} has no value") for option in ("methods", "dataset", "preset", "address")),
    ]
    for arguments, message in cases:
        with subtests.test(arguments=arguments):
            assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
            assert_error(capsys, message)


def test_wrong_setting_is_one_line_and_status_2(toy, capsys, subtests):
    cases = [
        ("train.epocs=1", "did you mean 'epochs'?"),
        ("train.iw_samples=5", "did you mean evaluation.iw_samples?"),
        ("train.batch_size=1000000", "use --set train.batch_size=100 or less"),
        ("train.batch_size=1", "use --set train.batch_size=2"),
        ("evaluation.metrics=refined-iw", "did you mean 'refined_iw'?"),
        ("model.features=10**12", "features"),
        ("model.features=1000000000", "GiB"),
        ("train.epochs=1e300", "'epochs' takes numbers up to 2,147,483,647, not 1e+300"),
        ("train.lr=1e300", "'lr' takes numbers up to 3e+38, not 1e+300"),
        ("vamp_prior.components=1000000000", "make it smaller with --set vamp_prior.…"),
        ("model.latent_dim=1", "two latent dimensions: use --set model.latent_dim=2, or leave it out of --methods"),
    ]
    for setting, message in cases:
        with subtests.test(setting=setting):
            assert bench(toy, "--methods", "vae,vamp_prior,vmf_vae", "--set", setting) == 2
            assert_error(capsys, message)


def test_missing_gpu_is_an_error(toy, capsys, monkeypatch, subtests):
    for arguments in [["--device", "cuda"], ["--gpus-per-cell", "0.5"]]:
        with subtests.test(arguments=arguments):
            monkeypatch.setattr("torch.cuda.is_available", lambda: False)
            assert bench(toy, *arguments) == 2
            assert_error(capsys, "no GPU")


def test_unwritable_output_folder_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert_error(capsys, "cannot write to --out")


@pytest.mark.slow
def test_new_method_is_one_file(tmp_path):
    """A file dropped into a copy of the packages is listed, trained and in the table."""
    for package in ("bench", "methods"):
        subprocess.run(["cp", "-r", str(ROOT / package), str(tmp_path)], check=True)
    (tmp_path / "methods" / "half.py").write_text(
        '"""Half the KL."""\n\nfrom bench.method import Method\n\n\n'
        'class Half(Method):\n    summary = "half the KL"\n    citation = "this test"\n\n'
        "    def kl_loss(self, terms):\n        return 0.5 * terms.kl.mean()\n"
    )
    (tmp_path / "bench" / "experiment" / "presets" / "quick.toml").write_text(TOY)
    environment = os.environ | {"BENCH_CACHE": os.environ.get("BENCH_CACHE", str(tmp_path / "cache"))}
    command = [sys.executable, "-m", "bench", "run", "--methods", "half,vae", "--executor", "local"]
    subprocess.run([*command, "--out", "out"], cwd=tmp_path, check=True, env=environment)
    table = pd.read_csv(tmp_path / "out" / "tables" / "glyphs-quick.csv")
    assert {*table.method} >= {"vae", "half"} and np.isfinite(table.iw_nll).all()
