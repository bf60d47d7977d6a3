"""The answer of a table: which rows keep z, which of them are recommended, and what withholds a ranking."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from bench.reporting.answer import Answer, agreement, answer, recommended
from bench.reporting.assay import VALID, Assay, Control
from bench.reporting.frame import cells_frame, rows_frame
from tests.reporting.records import finished_cell

PASSED = Assay(*[Control(VALID, "")] * 3)
USED, COLLAPSED = {"mi": 2.0, "collapsed": False}, {"mi": 0.0, "collapsed": True}


def answer_of(rows: dict[str, tuple[dict[str, Any], float, float]], seeds: int = 3, assay: Assay = PASSED) -> Answer:
    """Return the answer for rows of (metrics, difference in NLL to vae, cost)."""
    cells = [
        finished_cell(
            name,
            seed,
            metrics=metrics | {"iw_nll": 50 + shift + 0.02 * seed**2 * (name != "vae")},
            costs={"flops": cost},
        )
        for name, (metrics, shift, cost) in rows.items()
        for seed in range(seeds)
    ]
    frame = cells_frame(cells)
    table = rows_frame(frame.assign(baseline=frame["method"] == "vae"))
    names = table["method"]
    families = ["reference" if name == "control" else "objective" for name in names]
    return answer(table.assign(converged=[float(name != "unfinished") for name in names], family=families), assay)


ROWS = {
    "vae": (COLLAPSED, 0.0, 100.0),
    "dear": (USED, 0.0, 500.0),
    "cheap": (USED, 0.0, 100.0),
    "behind": (USED, 5.0, 100.0),
    "ahead": (USED, -5.0, 900.0),
    "unused": (COLLAPSED, 0.0, 100.0),
    "unfinished": (USED, 0.0, 100.0),
    "control": (USED, -9.0, 1.0),
}


def test_winners_keep_z_are_not_behind_and_cheapest_first():
    result = answer_of(ROWS)
    assert result.winners == ("cheap", "dear", "ahead") and result.caveat == ""
    for part in (
        "collapses in 3 of 3 seeds",
        "4 of 5 other rows keep z in every seed",
        "1 other row has not converged and is not judged",
        "lower in 1",
        "higher in 1",
        "not significantly different in 2",
    ):
        assert part in result.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1),
        ({"nll_minus_baseline_high": 0.6}, 0),
        ({"nll_minus_baseline_low": 0.01}, 0),
        ({"nll_minus_baseline_n": 2}, 0),
    ],
)
def test_recommended_rows_have_a_narrow_interval_over_three_seeds(change: dict[str, float], expected: int):
    row = {"n": 3, "family": "objective", "collapsed": 0, "converged": 1, "relative_cost": 1.0, "mi": 2.0}
    row |= {"nll_minus_baseline_low": -0.1, "nll_minus_baseline_high": 0.4, "nll_minus_baseline_n": 3}
    assert len(recommended([row | change])) == expected


def test_cost_is_relative_over_common_seeds():
    flops = {("vae", 0): 100, ("vae", 1): 100, ("vae", 2): 40, ("mine", 0): 200, ("mine", 1): 200, ("other", 3): 100}
    cells = [finished_cell(name, seed, metrics=USED, costs={"flops": cost}) for (name, seed), cost in flops.items()]
    frame = cells_frame(cells)
    costs = rows_frame(frame.assign(baseline=frame["method"] == "vae")).set_index("method")["relative_cost"]
    assert costs["vae"] == 1 and costs["mine"] == 2 and math.isnan(costs["other"])


def test_one_seed_has_no_winner():
    result = answer_of(ROWS, seeds=1)
    assert result.winners == () and result.caveat == "one seed: no ranking" and "(one seed) in 4" in result.text


def test_rows_are_not_judged_before_they_have_converged():
    text = answer_of({name: ROWS[name] for name in ("vae", "unfinished", "control")}).text
    assert text.endswith("; 1 other row has not converged and is not judged.") and "keep" not in text


def test_no_ranking_without_a_valid_assay():
    assert answer_of(ROWS, assay=replace(PASSED, positive=Control("failed", ""))).caveat.startswith("assay failed")


@pytest.mark.parametrize(
    ("metrics", "expected"), [(USED, "no collapse to prevent"), (COLLAPSED, "collapses in 3 of 3")]
)
def test_baseline_comes_first(metrics: dict[str, Any], expected: str):
    assert expected in answer_of({"vae": (metrics, 0.0, 100.0)}).text


def difference(method: str, mean: float, width: float, collapsed: float = 0.0, n: int = 3) -> dict[str, Any]:
    """Return the row of a method with an interval of the NLL less that of the baseline."""
    name = "nll_minus_baseline"
    ends = {f"{name}_low": mean - width, f"{name}_high": mean + width}
    return {"method": method, name: mean, **ends, f"{name}_n": n, "collapsed": collapsed}


def test_agreement_names_the_rows_that_change():
    found = agreement(
        [
            (difference("vae", float("nan"), 0.0, n=0), difference("vae", float("nan"), 0.0, n=0)),
            (difference("a(x=1)", 0.3, 0.1), difference("a", -0.2, 0.1)),  # significant in opposite directions
            (difference("b", -0.1, 0.5, collapsed=1.0), difference("b", 0.1, 0.05)),  # once significant
            (difference("c", -0.5, 0.1, collapsed=0.4), difference("c", -0.6, 0.1)),
        ]
    )
    assert found.rows == ("a", "b", "c")
    assert (found.changed, found.flipped, found.opposite) == (("b",), ("a", "b"), ("a",))
    assert (found.pairs, found.reordered) == (6, 3)  # a and vae, b and vae, a and b
