"""Study files: the same cells as the flags, flags beside a file, and wrong files."""

from pathlib import Path

import pytest

from bench.cli import main as cli
from bench.cli.progress import make_console
from bench.cli.run import make_plan
from tests.cli.conftest import assert_error

FLAGS = [
    *("--methods", "vae,beta_vae(beta=0.2|0.4)+anneal", "--dataset", "text", "--seeds", "2", "--seed", "7"),
    *("--set", "train.epochs=5", "--set", "model.hidden=9", "--set", "evaluation.metrics=refined_iw,latent_use"),
    *("--set", "beta_vae.beta=0.3", "--set", "train.lr=1e-2", "--set", "train.epoch_updates=none", "--no-controls"),
    *("--executor", "local", "--compile"),
]


def cells(arguments, monkeypatch):
    """The ids of the planned cells, and what is evaluated."""
    args = cli.parse(["run", *arguments])
    monkeypatch.setattr("bench.cli.options.check_preset", lambda *_: None)
    plan = make_plan(args, make_console())
    return [cell.config.cell_id for cell in plan.cells], plan.preset.evaluation, plan.sweeps


def test_saved_study_plans_the_same_cells(toy, tmp_path, capsys, monkeypatch):
    file, out = tmp_path / "study.toml", ["--out", str(toy)]
    assert cli.main(["run", *FLAGS, *out, "--save", str(file)]) == 0
    assert str(file) in capsys.readouterr().out and not toy.exists()
    expected = cells([*FLAGS, *out], monkeypatch)
    assert len(expected[0]) == 6 and cells([str(file)], monkeypatch) == expected
    again = tmp_path / "again.toml"
    assert cli.main(["run", str(file), "--save", str(again)]) == 0
    assert again.read_text() == file.read_text()


def test_default_run_is_saved_and_read(tmp_path):
    file = tmp_path / "study.toml"
    assert cli.main(["run", "--save", str(file)]) == 0
    saved, default = (vars(cli.parse(["run", *arguments])) for arguments in ([str(file)], []))
    for args in (saved, default):
        del args["study"], args["parser"], args["execute"]
    assert saved == default


def test_options_beside_a_file_replace_its_values(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        'methods = ["vae", "mim"]\npreset = "small"\nseeds = 10\nset.train.epochs = 3\ncontrols = false\n'
        'set.evaluation.metrics = ["probe", "ais"]\nset.sa_vae = {steps = 2}\nout = "~/x"\n'
    )
    args = cli.parse(["run", "--preset", "quick", str(file), "--set", "train.epochs=9", "--controls"])
    assert (args.methods, args.preset, args.seeds, args.controls) == ("vae,mim", "quick", 10, True)
    settings = ["train.epochs=3", "evaluation.metrics=probe,ais", "sa_vae.steps=2"]
    assert args.set == [*settings, "train.epochs=9"] and args.out == Path.home() / "x"
    assert cli.parse(["run"]).preset == "quick" and cli.parse(["run"]).set == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("datset = 'a'", "has no option 'datset': did you mean 'dataset'?"),
        ("cpus_per_cell = 1", "did you mean 'cpus-per-cell'?"),
        ("save = 'a'", "has no option 'save'"),
        ("a = ", "is no study file (Invalid value"),
        ("seeds = 1.5", "'seeds': write a whole number, not '1.5'"),
        ("device = 'gpu'", "'device' is one of auto, cpu, cuda, not 'gpu'"),
        ("force = 1", "'force' takes true or false, not 1"),
        ("dataset = ['a', 'b']", "'dataset' takes one value"),
        ("dataset = ''", "'dataset' takes one value"),
        ("set = 'train.epochs=3'", "'set' takes settings by name"),
        ("gpus-per-cell = 'x'", "'gpus-per-cell'"),
    ],
)
def test_wrong_study_is_one_line(content, message, tmp_path, capsys):
    file = tmp_path / "study.toml"
    file.write_text(content)
    assert cli.main(["run", str(file)]) == 2
    assert_error(capsys, message)


def test_missing_study_is_one_line(tmp_path, capsys):
    for arguments, message in [
        ([str(tmp_path / "none.toml")], "cannot read"),
        (["vae"], "'vae' belongs to no option"),
        (["--save", "study.txt"], "ends in .toml"),
        (["--set", "lr", "--save", str(tmp_path / "a.toml")], "cannot read --set lr"),
    ]:
        assert cli.main(["run", *arguments]) == 2
        assert_error(capsys, message)
