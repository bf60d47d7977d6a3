"""The command line: plan, run, report, run again; bad input; Ray against this process; kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench.cli.run import main
from bench.experiment.cell_folder import cell_folders
from bench.training import registry

ROOT = Path(__file__).parents[2]
TOY = """
summary = "for tests"
seeds = 1
notes = []

[image.model]
image_size = 7
latent_dim = 3
encoder_channels = [4, 4]
features = 8
decoder_channels = 6
kernels = [5, 3, 3]
skips = [3]
maps = 2

[image.train]
epochs = 3
epoch_updates = 4
batch_size = 10
ramp = 0.5
val_examples = 20
max_encoder_updates = 6.0
mi_rule = "mi"

[image.evaluation]
test_examples = 20
iw_samples = 4
batch_size = 10
pictures = 2
metrics = ["refined_iw", "latent_use"]
refined_iw_examples = 4
refined_iw_steps = 3
refined_iw_samples = 25
latent_use_examples = 6
"""


@pytest.fixture
def toy(prepared, tmp_path, monkeypatch):
    """A place where ``quick`` is tiny and ``glyphs`` is the toy data; its output folder."""
    presets = tmp_path / "presets"
    presets.mkdir()
    (presets / "quick.toml").write_text(TOY)
    monkeypatch.setattr("bench.experiment.presets.PRESETS", presets)
    monkeypatch.setattr(registry, "dataset", lambda name: SimpleNamespace(prepare=lambda *_: prepared))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "out"


def bench(out, *arguments):
    return main(["--out", str(out), "--executor", "local", *arguments])


def metrics(out):
    return {cell.path.relative_to(out): cell.evaluation()["metrics"] for cell in cell_folders(out)}


def test_a_run_trains_what_is_missing_and_writes_tables_and_figures(toy, capsys):
    assert bench(toy, "--methods", "vae,beta_vae(beta=0.2|0.4)", "--seeds", "2") == 0
    printed = capsys.readouterr().out
    assert "6 cells to run, 1 at a time" in printed and "(6/6)" in printed
    table = pd.read_csv(toy / "tables" / "toy-quick.csv")
    columns = "method n nll nll_sd elbo rec kl kl_sd mi mi_sd mi_batch au au_sd train_seconds relative_cost collapsed"
    assert {*columns.split()} <= {*table.columns}
    assert [*table.method[:3]] == ["vae", "beta_vae(beta=0.2)", "beta_vae(beta=0.4)"]
    assert "beta_vae(beta=0.2|0.4)" in table.method[3] and "validation" in table.method[3]
    assert (table.n[:3] == 2).all() and np.isfinite(table.nll).all() and table.relative_cost[0] == 1
    for suffix in ("md", "tex"):
        assert (toy / "tables" / f"toy-quick.{suffix}").stat().st_size > 500
    figures = {path.stem for path in (toy / "figures" / "toy-quick").iterdir()}
    of_training, of_test = {"dynamics", "information"}, {"rate_distortion", "nll_time", "nll_flops", "seeds", "gaps"}
    assert figures == of_training | of_test | {"reconstructions", "samples"}
    cell = next(cell_folders(toy))
    assert {path.name for path in cell.path.iterdir()} == {
        "config.json", "history.jsonl", "result.json", "evaluation.json", "examples.parquet", "arrays.npz",
        "last.pt", "previous.pt", "best.pt", "tries.json",
    }  # fmt: skip
    examples = pd.read_parquet(cell.path / "examples.parquet")
    assert len(examples) == 20 and examples.nll.mean() == pytest.approx(cell.evaluation()["metrics"]["nll"])


def test_a_second_run_trains_nothing_and_more_seeds_only_what_is_new(toy, capsys):
    bench(toy, "--methods", "vae")
    first = metrics(toy)
    stamps = {path: path.stat().st_mtime_ns for path in toy.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert bench(toy, "--methods", "vae") == 0
    printed = capsys.readouterr().out
    assert "1 done" in printed and "to run" not in printed and "vae" in printed
    assert stamps == {path: path.stat().st_mtime_ns for path in toy.rglob("*") if path.is_file()}
    bench(toy, "--methods", "vae", "--seeds", "2")
    assert len(metrics(toy)) == 2 and first.items() <= metrics(toy).items()


def test_another_evaluation_needs_no_training(toy):
    bench(toy, "--methods", "vae")
    (cell,) = cell_folders(toy)
    weights, result = (cell.path / "best.pt").read_bytes(), cell.result()
    bench(toy, "--methods", "vae", "--set", "evaluation.iw_samples=9")
    assert cell.evaluation()["config"]["iw_samples"] == 9
    assert (cell.path / "best.pt").read_bytes() == weights and cell.result() == result


def test_force_trains_again_and_loses_nothing(toy):
    bench(toy, "--methods", "vae")
    before = metrics(toy)
    assert bench(toy, "--methods", "vae", "--force") == 0
    assert metrics(toy) == before, "the same cell gives the same numbers"
    assert len(list(toy.glob("runs/*/*/*/backup-seed-0-*-1/result.json"))) == 1


def test_a_damaged_record_is_put_aside_and_the_cell_run_again(toy):
    bench(toy, "--methods", "vae")
    before = metrics(toy)
    (cell,) = cell_folders(toy)
    (cell.path / "result.json").write_text("{torn")
    assert bench(toy, "--methods", "vae,beta_vae(beta=0.2|0.4)") == 0
    assert before.items() <= metrics(toy).items()
    assert (next(toy.glob("runs/*/*/*/backup-*")) / "result.json").read_text() == "{torn"


def test_a_torn_evaluation_is_made_anew_without_training(toy):
    bench(toy, "--methods", "vae")
    before = metrics(toy)
    (cell,) = cell_folders(toy)
    weights = (cell.path / "best.pt").stat().st_mtime_ns
    (cell.path / "evaluation.json").write_text("{")
    assert bench(toy, "--methods", "vae") == 0
    assert metrics(toy) == before and (cell.path / "best.pt").stat().st_mtime_ns == weights
    (cell.path / "config.json").unlink()
    assert bench(toy, "--methods", "vae") == 0 and metrics(toy) == before, "a lost config is written again"


def test_without_weights_another_evaluation_trains_again(toy):
    """What a checkout of stored results is: records without weights."""
    bench(toy, "--methods", "vae")
    (cell,) = cell_folders(toy)
    for file in cell.path.glob("*.pt"):
        file.unlink()
    stamp = (cell.path / "result.json").stat().st_mtime_ns
    assert bench(toy, "--methods", "vae") == 0, "nothing to do"
    assert (cell.path / "result.json").stat().st_mtime_ns == stamp
    assert bench(toy, "--methods", "vae", "--set", "evaluation.iw_samples=9") == 0
    assert cell.evaluation()["config"]["iw_samples"] == 9 and list(toy.glob("runs/*/*/*/backup-*"))


def test_a_dry_run_says_what_and_how_long_and_writes_nothing(toy, capsys):
    assert bench(toy, "--methods", "core", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "6 cells to run" in printed and "about" in printed and "sa_vae" in printed
    assert not any(toy.iterdir())


def test_order_and_company_do_not_change_a_cell(toy, tmp_path):
    bench(toy, "--methods", "vae,aggressive")
    bench(tmp_path / "other", "--methods", "aggressive,beta_vae,vae")
    one, other = metrics(toy), metrics(tmp_path / "other")
    assert one.items() <= other.items()


def test_a_failed_cell_is_shown_the_rest_go_on_and_the_exit_status_says_so(toy, capsys, monkeypatch):
    def fail(self, terms):
        raise FloatingPointError("out of numbers")

    with monkeypatch.context() as patch:
        patch.setattr(registry.method("beta_vae"), "kl_loss", fail)
        assert bench(toy, "--methods", "beta_vae,vae") == 1
    printed = capsys.readouterr().out
    assert "failed: beta_vae(beta=0.4) seed 0: FloatingPointError: out of numbers" in printed
    assert "out of numbers" in (toy / "tables" / "toy-quick.md").read_text()
    assert bench(toy, "--methods", "beta_vae,vae") == 0, "the next run tries it again"


def test_the_listing_names_everything(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name in (*registry.method_names(), *registry.dataset_names(), "core", "paper", "all", "quick", "small"):
        assert name in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "agressive"], "did you mean 'aggressive'?"),
        (["--methods", "vae("], "cannot read"),
        (["--methods", ","], "--methods is empty"),
        (["--dataset", "omniglott"], "unknown data set 'omniglott': did you mean 'omniglot'?"),
        (["--preset", "quik"], "did you mean 'quick'?"),
        (["--seeds", "0"], "--seeds takes a whole number from 1, not 0"),
        (["--seed", "-1"], "--seed takes a whole number from 0"),
        (["--cpus-per-cell", "0"], "--cpus-per-cell"),
        (["--gpus-per-cell", "1.5"], "a fraction of one GPU or a whole number"),
        (["--set", "vae.foo=1"], "no setting 'foo': there are none"),
        (["--set", "sa_vae.stps=1", "--methods", "sa_vae"], "did you mean 'steps'?"),
        (["--set", "train.epocs=1"], "did you mean 'epochs'?"),
        (["--set", "nonsense"], "write method.setting=value"),
        (["--set", "train.batch_size=1000000"], "there are only 100 examples"),
        (["--set", "model.image_size=13"], "does not divide the images' 28"),
        (["--data-dir", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch, prepared):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(registry.load_dataset_module("glyphs"), "prepare", lambda *_: prepared)
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.err.startswith("error: ")


def test_a_gpu_that_is_not_there_is_refused(tmp_path, capsys, monkeypatch, prepared):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(registry.load_dataset_module("glyphs"), "prepare", lambda *_: prepared)
    for arguments in (["--device", "cuda"], ["--gpus-per-cell", "0.5"]):
        assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
        assert "no GPU is available" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write to --out" in capsys.readouterr().err


def test_corrupt_data_is_refused_and_stored_results_stay(toy, tmp_path, capsys, monkeypatch):
    bench(toy, "--methods", "vae")
    before = metrics(toy)
    monkeypatch.undo()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "omniglot").mkdir(parents=True)
    (tmp_path / "data" / "omniglot" / "chardata.mat").write_bytes(b"\0" * 1000)
    assert main(["--out", str(toy), "--dataset", "omniglot", "--data-dir", str(tmp_path / "data")]) == 2
    captured = capsys.readouterr()
    assert "chardata.mat" in captured.err and captured.err.count("\n") == 1
    assert metrics(toy) == before


# -- in processes of their own -------------------------------------------------------------------------------------


def python(*words, **options):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


def test_help_imports_neither_torch_nor_ray_and_is_quick():
    code = (
        "import runpy, sys; sys.argv = ['run', '--help']\n"
        "try: runpy.run_module('bench.run', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'ray', 'pandas'} & set(sys.modules), 'imported'"
    )
    started = time.monotonic()
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "--methods" in done.stdout and time.monotonic() - started < 2


def test_nothing_to_do_does_not_import_ray(toy, tmp_path):
    bench(toy, "--methods", "vae")
    code = (
        "import sys, runpy; from types import SimpleNamespace; from pathlib import Path\n"
        "import bench.experiment.presets as presets; presets.PRESETS = Path(sys.argv[1])\n"
        "from bench.data import registry; from bench.data.dataset import Prepared\n"
        "module = SimpleNamespace(prepare=lambda *_: Prepared.read(Path(sys.argv[2])))\n"
        "registry.load_dataset_module = lambda name: module\n"
        "from bench.run import main; assert main(['--methods', 'vae', '--out', sys.argv[3]]) == 0\n"
        "assert 'ray' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    data = registry.load_dataset_module("glyphs").prepare().path
    done = python("-c", code, str(tmp_path / "presets"), str(data), str(toy))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "1 done" in done.stdout


def test_a_new_method_is_one_file_and_no_other_edit(tmp_path):
    """A copy of the two packages with one file dropped in: it is listed, in ``all``, runs and stands in the table."""
    for package in ("bench", "methods"):
        subprocess.run(["cp", "-r", str(ROOT / package), str(tmp_path)], check=True)
    (tmp_path / "methods" / "half.py").write_text(
        '"""Half the KL."""\n\nfrom bench.method import Method\n\n\n'
        'class Half(Method):\n    summary = "half the KL"\n    citation = "this test"\n\n'
        "    def kl_loss(self, terms):\n        return 0.5 * terms.kl.mean()\n"
    )
    (tmp_path / "bench" / "experiment" / "presets" / "quick.toml").write_text(TOY)
    environment = os.environ | {"BENCH_CACHE": os.environ.get("BENCH_CACHE", str(tmp_path / "cache"))}
    words = ["-m", "bench.cli.run", "--methods", "half,vae", "--executor", "local", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "tables" / "glyphs-quick.csv")
    assert set(table.method) == {"vae", "half"} and np.isfinite(table.nll).all()
    listed = subprocess.run(
        [sys.executable, "-m", "bench.cli.run", "--list"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "half the KL" in listed.stdout


def test_a_kill_loses_nothing_and_changes_no_number(toy, tmp_path, prepared, planned, task):
    """SIGKILL in the middle of training; the same task again ends with the numbers of an uninterrupted one."""
    from bench.experiment.worker import run_cell

    whole = planned("aggressive", out=tmp_path / "whole")
    run_cell(task(whole))
    killed = planned("aggressive", out=tmp_path / "killed")
    (tmp_path / "task.json").write_text(json.dumps(task(killed)))
    code = (
        "import json, sys, time, bench.train, bench.checkpoint as c\n"
        "bench.train.CHECKPOINT_SECONDS = 0\n"
        "save = c.save_last\n"
        "def slowly(folder, state): save(folder, state); print('saved', flush=True); time.sleep(0.2)\n"
        "c.save_last = slowly\n"
        "from bench.cell import run_cell; run_cell(json.load(open(sys.argv[1])))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "task.json")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for _ in range(6):
        assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed.folder.result()["status"] == "running"
    run_cell(task(killed))
    assert killed.folder.result()["resumes"] == 1
    for name in ("metrics", "references"):
        assert killed.folder.evaluation()[name] == whole.folder.evaluation()[name]
    one, other = ([{**line, "seconds": 0} for line in cell.folder.history()] for cell in (killed, whole))
    assert one == other


def test_ray_gives_the_numbers_of_this_process(toy, tmp_path, capfd):
    """The one real Ray run: two methods, two seeds, equal bit for bit; no file of Ray's own is left behind."""
    arguments = ["--methods", "vae,aggressive", "--seeds", "2"]
    assert main(["--out", str(tmp_path / "ray"), *arguments]) == 0
    printed = capfd.readouterr()
    assert "(4/4)" in printed.out and "Trial" not in printed.out, printed.out
    assert "4 cells in " in printed.out and "of the workers' time in cells" in printed.out
    assert bench(toy, *arguments) == 0
    assert metrics(tmp_path / "ray") == metrics(toy)
    for one, other in zip(cell_folders(tmp_path / "ray"), cell_folders(toy), strict=True):
        with np.load(one.path / "arrays.npz") as a, np.load(other.path / "arrays.npz") as b:
            assert all(np.array_equal(a[name], b[name]) for name in a.files)
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {"runs", "tables", "figures", "report.html"}
