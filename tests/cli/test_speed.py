"""``bench speed``: measurements, table and errors."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from bench.cli import speed
from bench.cli.main import main
from bench.experiment.schema import CellConfig
from bench.training import registry
from tests.cli.conftest import assert_error


@pytest.fixture
def in_process(monkeypatch):
    """Measure in this process, which is faster."""
    monkeypatch.setattr(speed, "run_in_subprocess", lambda function, *args: function(*args))


def run(out: Path, *arguments: str) -> int:
    return main(["speed", "--device", "cpu", "--seconds", "0.01", "--out", str(out), *arguments])


def test_one_row_per_kind_of_update(in_process, tmp_path, capsys):
    methods = ["--methods", "vae,aggressive", "--precision", "bfloat16"]
    assert run(tmp_path, *methods, "--models", "synthetic:quick") == 0
    table = pd.read_csv(tmp_path / "speed.csv")
    kinds = [("vae", "encoder+decoder"), ("aggressive", "encoder"), ("aggressive", "decoder")]
    assert [*zip(table.method, table["update"], strict=True)] == kinds
    assert [*table.precision] == ["bfloat16"] * 3
    assert (table.updates_per_second * table.ms_per_update).to_numpy() == pytest.approx(1000)
    assert table.percent_of_peak.between(0, 100, inclusive="neither").all()
    assert (table.memory_mb > 10).all() and (table.evaluated_per_second > 0).all()
    flops = table.gflop_per_update
    assert 0 < flops[1] == flops[2] == flops[0], "the norm of the gradient is that of all parameters"
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("aggressive", "gflop_per_update", "torch: "))


def test_method_that_does_not_fit_is_skipped(in_process, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry.method("aggressive"), "modalities", ("image",))
    assert run(tmp_path, "--methods", "aggressive", "--models", "synthetic:quick") == 2
    assert_error(capsys, "for image data only")


def test_failure_of_one_method_spares_the_others(tmp_path, capsys, monkeypatch):
    in_subprocess = speed.run_in_subprocess

    def in_process_or_killed(function, *args):
        if isinstance(args[0], CellConfig) and args[0].method.name == "beta_vae":
            return in_subprocess(os._exit, 9)
        return function(*args)

    monkeypatch.setattr(speed, "run_in_subprocess", in_process_or_killed)
    assert run(tmp_path, "--methods", "vae,beta_vae", "--models", "synthetic:quick") == 1
    assert "failed: beta_vae(beta=0.4) at synthetic:quick: RuntimeError" in capsys.readouterr().out
    assert [*pd.read_csv(tmp_path / "speed.csv").method] == ["vae"]


def test_wrong_argument_is_one_line_and_status_2(tmp_path, capsys, subtests):
    cases = [
        (["--models", "imag:quick"], "sizes: image, text, synthetic"),
        (["--models", "image"], "such as image:quick"),
        (["--models", "image:huge"], "unknown preset 'huge'"),
        (["--methods", "vea"], "did you mean 'vae'?"),
        (["--methods", ","], "--methods or --models is empty"),
        (["--precision", "tf32"], "CPU"),
        (["--threads", "0"], "--threads must be"),
        (["--seconds", "nan"], "--seconds must be"),
        (["--out", "/dev/null/x"], "cannot write to --out"),
    ]
    for arguments, message in cases:
        with subtests.test(arguments=arguments):
            assert run(tmp_path, *arguments) == 2
            assert_error(capsys, message)
            assert not (tmp_path / "speed.csv").exists()
