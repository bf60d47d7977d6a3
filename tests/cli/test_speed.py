"""``python -m bench.speed``: what it measures, prints and writes, and what it says of mistakes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import speed


@pytest.fixture
def here(monkeypatch):
    """All in this process: how it comes into one of its own is tested apart."""
    monkeypatch.setattr(speed, "alone", lambda function, *given: function(*given))


def run(out: Path, *words: str) -> int:
    return speed.main(["--device", "cpu", "--seconds", "0.01", "--out", str(out), *words])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "speed.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_kind_of_update_of_each_method(here, tmp_path, capsys):
    assert run(tmp_path, "--methods", "vae,aggressive", "--models", "synthetic:quick,image:quick") == 0
    found = rows(tmp_path)
    kinds = [("vae", "encoder+decoder"), ("aggressive", "encoder"), ("aggressive", "decoder")]
    assert [(row["model"], row["method"], row["update"]) for row in found] == [
        (model, *kind) for model in ("synthetic:quick", "image:quick") for kind in kinds
    ]
    for row in found:
        assert float(row["updates_per_second"]) * float(row["seconds_per_update"]) == pytest.approx(1)
        assert 0 < float(row["utilisation"]) < 1 and float(row["evaluated_per_second"]) > 0
        assert int(row["updates_timed"]) >= 3 and float(row["peak_memory_mb"]) > 10
    printed, written = capsys.readouterr().out, (tmp_path / "speed.md").read_text("utf-8")
    for name in ("aggressive", "encoder+decoder", "GFLOP", "of peak"):
        assert name in printed and name in written
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found) and len({len(line) for line in lines}) == 1


def test_operations_are_those_of_training(here, tmp_path):
    run(tmp_path, "--methods", "vae,sa_vae(steps=2)", "--models", "synthetic:quick")
    plain, refined = (float(row["gflop_per_update"]) for row in rows(tmp_path))
    assert refined > 4 * plain


def test_precisions_side_by_side(here, tmp_path):
    run(tmp_path, "--methods", "vae", "--models", "synthetic:quick", "--precision", "float32,bfloat16")
    assert [row["precision"] for row in rows(tmp_path)] == ["float32", "bfloat16"]


def test_a_method_that_does_not_fit_is_left_out_and_said(here, tmp_path, capsys, monkeypatch):
    from bench.methods.aggressive import Aggressive

    monkeypatch.setattr(Aggressive, "modalities", ("image",))
    assert run(tmp_path, "--methods", "aggressive", "--models", "synthetic:quick") == 2
    assert "for image data only" in capsys.readouterr().err
    assert run(tmp_path, "--methods", "vae,aggressive", "--models", "synthetic:quick") == 0
    assert "left out: aggressive at synthetic:quick, for image data only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "imag:quick"], "did you mean 'image'?"),
        (["--models", "image"], "such as image:quick"),
        (["--models", "image:huge"], "unknown preset 'huge'"),
        (["--models", ","], "--models is empty"),
        (["--methods", "vea"], "did you mean 'vae'?"),
        (["--methods", ","], "--methods is empty"),
        (["--precision", "bfloat"], "did you mean 'bfloat16'?"),
        (["--precision", "tf32"], "on a CPU"),
        (["--threads", "0"], "--threads takes"),
        (["--seconds", "nan"], "--seconds takes"),
        (["--seconds", "inf"], "--seconds takes"),
        (["--out", "/dev/null/x"], "cannot write to --out"),
    ],
)
def test_mistakes_are_one_line(words, said, tmp_path, capsys):
    assert run(tmp_path, *words) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.startswith("error: ") and printed.count("\n") == 1
    assert not (tmp_path / "speed.csv").exists()


def test_a_process_of_its_own():
    assert speed.run_in_subprocess(os.getpid) != os.getpid()


def test_what_fails_costs_the_others_nothing(tmp_path, capsys, monkeypatch):
    def alone(function, *given):
        if isinstance(given[0], dict) and given[0]["method"] == "kl_annealing":
            return killed(os._exit, 9)
        return function(*given)

    killed = speed.run_in_subprocess
    monkeypatch.setattr(speed, "alone", alone)
    assert run(tmp_path, "--methods", "vae,kl_annealing", "--models", "synthetic:quick") == 1
    said = "failed: kl_annealing at synthetic:quick, float32: its process was killed"
    assert said in capsys.readouterr().out and said in (tmp_path / "speed.md").read_text("utf-8")
    assert [row["method"] for row in rows(tmp_path)] == ["vae"]
    assert run(tmp_path, "--methods", "kl_annealing", "--models", "synthetic:quick") == 2
    assert said in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; from bench import speed; speed.parser().format_help(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
