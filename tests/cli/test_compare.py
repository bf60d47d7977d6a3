"""``bench compare`` on fabricated cells: pairs, independent seeds, other protocols, and exit statuses."""

import json
from dataclasses import replace

import pytest

from bench.cli.main import main
from tests.fixtures.make_cells import DATA, THREE, TRAIN, write

VAE, BETA = THREE[1:]


@pytest.fixture
def write_output(tmp_path):
    """``write_output("a", [VAE])`` -> an output folder with three seeds of these rows."""

    def make(name, methods, **changes):
        write(tmp_path / name, methods, endings={}, **changes)
        return str(tmp_path / name)

    return make


def shifted(row, nll):
    """A row whose NLL is higher."""
    return (row[0], row[1] + nll, *row[2:])


def compare(capsys, *arguments):
    """The exit status and the printed JSON."""
    status = main(["compare", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_equal_outputs_do_not_differ(write_output, capsys):
    a, b = write_output("a", THREE), write_output("b", THREE[:2])
    status, [table] = compare(capsys, a, b, "--fail-if-different")
    assert status == 0 and table["differing"] == [] and table["only_a"] == ["beta_vae(beta=0.4)"]
    rows = {row["method"]: row for row in table["rows"]}
    assert [*rows] == ["autoregressive", "vae"] and rows["vae"]["paired"] == 3
    for name in ("nll", "mi", "cost"):
        change = rows["vae"][name]
        assert change["a"] == change["b"] and change["difference"]["mean"] == change["difference"]["high"] == 0
    assert rows["autoregressive"]["collapsed"] is None and rows["autoregressive"]["mi"]["a"] is None


def test_paired_change_is_found(write_output, capsys):
    """The seeds differ by about 0.3 nats, which pairs cancel; a shift of 0.1 is found."""
    a, b = write_output("a", [VAE, BETA]), write_output("b", [shifted(VAE, 0.1), BETA])
    status, [table] = compare(capsys, a, b, "--fail-if-different")
    vae, beta = table["rows"]
    assert status == 1 and vae["differs"] and not beta["differs"]
    assert vae["nll"]["difference"]["mean"] == pytest.approx(0.1, abs=1e-6)
    assert vae["nll"]["b"] - vae["nll"]["a"] == pytest.approx(0.1, abs=1e-6)
    assert main(["compare", a, b]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("vae ") and "+0.10 [0.10, 0.10] ≠" in line for line in printed)
    assert max(map(len, printed)) <= 130


def test_other_seeds_are_not_paired(write_output, capsys):
    """The same shift is lost in the differences between seeds; collapse needs no pairs."""
    used = (BETA[0], BETA[1], 7.5, 9, 2.0)
    collapsed = (BETA[0], BETA[1], 0.01, 0, 1.0)
    a = write_output("a", [VAE, used], seeds=5, base_seed=1)
    b = write_output("b", [shifted(VAE, 0.1), collapsed], seeds=5)
    _, [table] = compare(capsys, a, b)
    vae, beta = table["rows"]
    assert vae["paired"] == 0 and not vae["nll"]["differs"] and vae["nll"]["difference"]["low"] < 0
    assert [beta[name]["differs"] for name in ("mi", "collapsed", "cost")] == [True, True, True]
    assert beta["collapsed"]["b"] == 1 and beta["cost"]["b"] == pytest.approx(1, abs=0.01)


def test_other_settings_and_data_are_said_first(write_output, capsys):
    a = write_output("a", [VAE])
    other = replace(DATA, fingerprint="f" * 64)
    b = write_output("b", [VAE], train=replace(TRAIN, epochs=20), dataset=other)
    assert main(["compare", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = "A and B differ in data 0123456789ab → ffffffffffff; train.epochs 10 → 20: B − A is not a change"
    assert lines[4].startswith(expected)
    _, [table] = compare(capsys, a, b)
    assert table["rows"][0]["paired"] == 0, "the seeds have other data"


def test_tables_of_one_protocol_are_compared(write_output, capsys):
    """A has two protocols, the smaller of which is that of B."""
    other = {"train": replace(TRAIN, epochs=20)}
    a = write_output("a", [VAE, BETA])
    write_output("a", [VAE], **other)
    _, [table] = compare(capsys, a, write_output("b", [VAE], **other))
    assert table["differing"] == [] and [row["method"] for row in table["rows"]] == ["vae"] and table["only_a"] == []


def test_another_revision_of_a_method_is_named(write_output, capsys):
    newer = VAE[0].model_copy(update={"revision": 2, "config": {"beta": 0.5}})
    a, b = write_output("a", [VAE]), write_output("b", [(newer, *VAE[1:])])
    assert main(["compare", a, b]) == 0
    assert "vae: beta – → 0.5, revision 1 → 2" in capsys.readouterr().out


def test_nothing_in_common_is_an_error(write_output, tmp_path, capsys):
    a, b = write_output("a", [VAE]), write_output("b", [VAE], preset="small")
    for arguments, message in [
        ((a, b), f"no data set and preset in common: {a} has glyphs-quick, {b} has glyphs-small"),
        ((a, str(tmp_path)), "no finished cells under"),
        ((a, str(tmp_path / "c")), "no folder"),
    ]:
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err
