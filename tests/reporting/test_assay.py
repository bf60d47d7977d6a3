"""The assay: the verdict on every control, and what is withheld without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.experiment.presets import load_preset
from bench.reporting import report
from bench.reporting.assay import FAILED, NOT_TESTED, VALID, Assay, assess
from bench.reporting.frame import cells_frame
from tests.fixtures import make_cells
from tests.fixtures.make_cells import TEXT
from tests.reporting.records import finished_cell, markdown

PASSING: dict[str, dict[str, Any]] = {
    "autoencoder": {"rec": 48.0, "shuffle_gap": 2.0},
    "autoregressive": {"rec": 50.0, "mi": None, "collapsed": None},
    "shuffled_encoder": {"mi": 0.01, "collapsed": True, "shuffle_gap": -0.05},
    "vae": {"mi": 0.0, "collapsed": True},
}


def assay(*, absent: str = "", second: dict[str, dict[str, Any]] | None = None, **config: Any) -> Assay:
    """Return the assay of two seeds of the controls, without ``absent``; ``second`` changes metrics of seed 1."""
    cells = [
        finished_cell(name, seed, metrics=values | ((second or {}).get(name, {}) if seed else {}), **config)
        for name, values in PASSING.items()
        for seed in range(2)
        if name != absent
    ]
    return assess(cells_frame(cells))


def test_passing_controls_are_valid():
    result = assay()
    assert result.is_valid and result.line.startswith("Assay valid: ") and "\n" not in result.line
    for figure in ("shuffle gap 2.00", "rec over autoregressive 2.00", "MI 0.01", "|shuffle gap| 0.05", "2 of 2 seeds"):
        assert figure in result.line


@pytest.mark.parametrize(
    ("name", "metrics", "passes"),
    [
        ("autoencoder", {"shuffle_gap": 0.99}, False),
        ("autoencoder", {"shuffle_gap": 1.0}, True),
        ("autoencoder", {"rec": 49.01}, False),
        ("autoencoder", {"rec": 49.0}, True),
        ("autoregressive", {"rec": 48.99}, False),
        ("shuffled_encoder", {"mi": 0.1, "collapsed": False}, False),
        ("shuffled_encoder", {"shuffle_gap": 0.1}, False),
        ("shuffled_encoder", {"shuffle_gap": -0.1}, False),
        ("shuffled_encoder", {"shuffle_gap": 0.09}, True),
        ("vae", {"mi": 3.0, "collapsed": False}, True),
    ],
)
def test_every_seed_must_pass(name: str, metrics: dict[str, Any], passes: bool):
    result = assay(second={name: metrics})
    assert result.verdict == (VALID if passes else FAILED)
    if not passes:
        assert "required" in result.line and "collapsed in" not in result.line


@pytest.mark.parametrize("name", PASSING)
def test_missing_controls_are_named(name: str):
    result = assay(absent=name)
    assert result.verdict == NOT_TESTED and not result.is_valid
    assert name in result.line and "run without --no-controls" in result.line
    result = assay(second={name: dict.fromkeys(("rec", "shuffle_gap", "mi", "collapsed"))})
    assert result.verdict == NOT_TESTED and name in result.line and "--no-controls" not in result.line


def test_a_failed_control_outweighs_a_missing_one():
    assert assay(absent="vae", second={"autoencoder": {"shuffle_gap": 0.0}}).verdict == FAILED


def test_reference_says_whether_there_is_a_collapse(subtests: pytest.Subtests):
    active = {"mi": 2.0, "collapsed": False}
    cases = [(0, {}), (1, {"vae": active}), (2, {"vae": active})]
    for count, second in cases:
        with subtests.test(active=count), pytest.MonkeyPatch.context() as patch:
            if count == 2:
                patch.setitem(PASSING, "vae", active)
            line = assay(second=second).line
            assert f"collapsed in {2 - count} of 2 seeds" in line
            assert ("no collapse to prevent here" in line) == (count == 2)
            assert "by design" not in line, "other settings than the preset's"


def test_collapse_by_design_needs_the_unchanged_preset():
    preset = load_preset("small", "text")
    unchanged = {"dataset": TEXT, "preset": "small", "model": preset.model, "train": preset.train}
    assert preset.collapse_by_design and "collapsed in 2 of 2 seeds, by design" in assay(**unchanged).line
    changed = {"train": replace(preset.train, lr=0.3)}, {"preset": "quick"}, {"preset": "removed"}
    assert not any("by design" in assay(**unchanged | change).line for change in changed)


@pytest.mark.usefixtures("no_figures")
def test_rankings_need_a_valid_assay(tmp_path: Path):
    for name, methods in (("valid", [*make_cells.THREE, *make_cells.CONTROLS]), ("untested", make_cells.THREE)):
        out = tmp_path / name
        make_cells.write(out, methods, groups={}, endings={})
        [result] = report.build(out)
        tex, page = (out / "tables" / "glyphs-quick.tex").read_text(), (out / "report.html").read_text()
        appendix = (out / "tables" / "glyphs-quick-appendix.tex").read_text()
        line = result.text.splitlines()[1]
        assert line.startswith("Assay valid" if name == "valid" else "Assay not tested")
        assert markdown(out).splitlines()[2].startswith(line[:12]) and line[:12] in page and line[:12] in appendix
        assert ("Assay not tested" in tex) == (name == "untested")
        marks = (
            "* not significantly above" in result.text,
            "**" in markdown(out),
            r"\textbf" in tex,
            '"best":true' in page,
        )
        assert {*marks} == {name == "valid"}
