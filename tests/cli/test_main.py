"""The program: its commands, their help, and exit statuses."""

import os
import subprocess
import sys
from argparse import Namespace

import pytest

import bench
from bench.cli import main as cli
from bench.cli import report
from bench.core.errors import Stopped, UserError
from bench.data.registry import dataset_names
from bench.run import main as run_main
from bench.training import registry
from tests.cli.conftest import only_cell
from tests.host import changed, host_state

COMMANDS = "run report compare diagnose evaluate audit verify bundle merge lag speed list".split()


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and bench.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([command, "--help"], ["--help"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main(arguments)
    printed = capsys.readouterr().out
    assert f"python -m bench {command}" in printed and f"    {command} " in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_unknown_command_is_an_error(capsys):
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required: COMMAND; 'python -m bench")
    assert cli.main(["Verfy", "out"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'Verfy': did you mean 'verify'?\n"


def test_help_and_presets_import_nothing_heavy():
    code = (
        "import sys; from bench.cli.main import main\n"
        "main(['list', 'presets'])\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: print({'torch', 'ray', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    assert python(code).stdout.splitlines()[-1] == "set()"


def test_figures_need_no_window(monkeypatch):
    """The user's ``MPLBACKEND`` may not exist here; in a program that calls ``main`` with arguments it stays."""
    backends = []

    def execute(args):
        backends.append(os.environ["MPLBACKEND"])

    monkeypatch.setenv("MPLBACKEND", "nonsense")
    monkeypatch.setattr(cli, "parse", lambda argv: Namespace(execute=execute, after_stop=""))
    for main, argv in ((cli.main, None), (run_main, None), (cli.main, ["list"]), (run_main, [])):
        main(argv)
    assert backends == ["agg", "agg", "nonsense", "nonsense"]


def test_errors_are_one_line_and_a_status(capsys, monkeypatch, subtests):
    cases = [
        (UserError("no folder: give another"), 2, "error: no folder: give another"),
        (FileNotFoundError(2, "No such file", "a.json"), 2, "error: a.json: No such file"),
        (KeyboardInterrupt(), 130, "interrupted: the same command writes the rest"),
        (Stopped(15, "1 of 2 cells"), 143, "stopped: 1 of 2 cells; the same command writes the rest"),
    ]
    for error, status, message in cases:
        with subtests.test(error=error):

            def fail(args):
                raise error

            monkeypatch.setattr(report, "execute", fail)
            assert cli.main(["report"]) == status
            assert capsys.readouterr().err.strip() == message


def test_list_names_everything_on_one_screen(capsys):
    assert run_main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 100
    words = " ".join(lines).replace(",", " ").split()
    names = (*registry.method_names(), *dataset_names(), "core", "paper", "all", "quick", "small", "+anneal")
    assert not {*names} - {*words}


def test_list_of_a_method_is_its_card(capsys, subtests):
    cases = {
        "sa_vae": ["Kim et al., ICML 2018", "posterior", "momentum: 0 … 0.9", "steps: int = 10", "steps=3", "+anneal"],
        "infomax_vae": ["https://arxiv.org/abs/1912.13361", "gamma=0.0", "for                    image and text"],
        "autoregressive": ["there is no latent", "no KL term can be attached", "Loss:      -log p(x), exact"],
    }
    for name, texts in cases.items():
        with subtests.test(name=name):
            assert run_main(["--list", name]) == cli.main(["list", name]) == 0
            printed = capsys.readouterr().out
            assert all(text in printed for text in texts) and printed.startswith(f"{name} (")
    card = printed[: printed.index("Loss:")]
    assert "+anneal" not in card and "+lr" in card


def test_list_of_a_suite_is_its_rows(capsys):
    assert cli.main(["list", "paper"]) == 0
    assert {"vae+anneal", "beta_vae(beta=0.2)"} < {*capsys.readouterr().out.splitlines()}
    assert cli.main(["list", "sa-vae"]) == 2
    assert "did you mean 'sa_vae'?" in capsys.readouterr().err


def test_list_of_any_name_describes_it(capsys):
    for name, text in {"lstm": "For text data", "glyphs": "no download", "ais": "nll_ais", "small": "seeds"}.items():
        assert cli.main(["list", name]) == 0
        assert text in capsys.readouterr().out


def test_list_of_one_kind_has_nothing_else(capsys):
    assert cli.main(["list", "datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data sets" and len(lines) == 1 + len(dataset_names())


def test_commands_leave_the_process_unchanged(finished, tmp_path, capsys):
    commands = [
        ["list"],
        ["list", "vae"],
        ["report", str(finished)],
        ["compare", str(finished), str(finished)],
        ["bundle", str(finished), str(tmp_path / "bundle.tar.gz")],
        ["evaluate", str(finished), "--metrics", "latent_use", "--executor", "local"],
        ["verify", str(only_cell(finished, "vae").path)],
        ["merge", str(finished), "--out", str(tmp_path / "merged")],
        ["run", "--out", str(tmp_path / "new"), "--executor", "local", "--methods", "vae"],
        ["run", "--methods", "unknown"],
    ]
    before = host_state()
    statuses = [cli.main(command) for command in commands]
    assert (statuses, changed(before)) == ([*[0] * 9, 2], {})


@pytest.mark.slow
def test_ray_leaves_the_process_unchanged(toy):
    before = host_state()
    assert cli.main(["run", "--out", str(toy), "--methods", "vae"]) == 0
    assert changed(before) == {}
