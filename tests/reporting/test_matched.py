"""Comparisons at matched rate and at matched training time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from bench.experiment.cell_record import CellRecord
from bench.reporting import matched
from bench.reporting.frame import cells_frame
from bench.reporting.render import DASH, Document
from tests.fixtures.make_cells import PROVENANCE
from tests.reporting.records import finished_cell

SWEEPS = {"beta": ["beta1", "beta2", "beta3"], "bits": ["bits1", "bits2", "bits3"]}
BETA = ((1.0, 50.0), (3.0, 46.0), (9.0, 52.0))  # (KL, NLL) of the members
BITS = ((8.0, 49.0), (2.0, 47.0), (4.0, 45.0))


def sweep(name: str, members: tuple[tuple[float, float], ...], seeds: int = 2) -> list[CellRecord]:
    """Return the cells of a sweep; every further seed is 0.5 nats higher in NLL, and rec is NLL - KL."""
    return [
        finished_cell(f"{name}{i + 1}", seed, metrics={"kl": kl, "iw_nll": nll + seed / 2, "rec": nll + seed / 2 - kl})
        for i, (kl, nll) in enumerate(members)
        for seed in range(seeds)
    ]


def at_rate(*cells: CellRecord, **options: Any) -> pd.DataFrame | None:
    return matched.matched_rate(cells_frame(cells), SWEEPS, **options)


def test_sweeps_are_interpolated_linearly():
    table = at_rate(*sweep("beta", BETA), *sweep("bits", BITS), rates=(2.0, 6.0)).set_index(["sweep", "rate"])
    assert table["nll"].to_dict() == {
        ("beta", 2.0): 48.25,
        ("beta", 6.0): 49.25,
        ("bits", 2.0): 47.25,
        ("bits", 6.0): 47.25,
    }
    row = table.loc[("beta", 2.0)]
    assert (row["rec"], row["n"]) == (pytest.approx(46.25), 2)
    expected = stats.t.interval(0.95, 1, 48.25, stats.sem([48.0, 48.5]))
    assert (row["nll_low"], row["nll_high"]) == pytest.approx(expected)


def test_sweeps_are_not_extrapolated():
    cells = [*sweep("beta", BETA), *sweep("bits", ((2.0, 47.0), (4.0, 45.0), (5.0, 49.0)))]
    assert {*at_rate(*cells)["rate"]} == {2.0, 3.0, 5.0}
    assert at_rate(*cells, rates=(0.9, 1.5, 9.5)) is None  # reached by one sweep only


def test_too_few_cells_for_a_matched_rate(subtests: pytest.Subtests):
    cases = [
        sweep("beta", BETA),
        [*sweep("beta", BETA, seeds=1), *sweep("bits", BITS, seeds=1)],
        [*sweep("beta", BETA[:2]), *sweep("bits", BITS[:2])],
    ]
    for cells in cases:
        with subtests.test(count=len(cells)):
            assert at_rate(*cells) is None


def timed(method: str, seed: int, *history: tuple[float, float], **result: Any) -> CellRecord:
    """Return a cell whose history has (seconds, validation ELBO)."""
    lines = [{"update": i, "seconds": seconds, "elbo": elbo} for i, (seconds, elbo) in enumerate(history)]
    return finished_cell(method, seed, history=lines, costs={"train_seconds": history[-1][0]}, result=result)


def runs(**result: Any) -> list[CellRecord]:
    """Return two methods, the second at half the speed; ``result`` changes its last cell."""
    return [
        *(timed("fast", seed, (1.0, -9.0), (2.0, -7.0), (4.0, -8.0)) for seed in range(2)),
        timed("slow", 0, (3.0, -6.0), (8.0, -5.0)),
        timed("slow", 1, (3.0, -6.0), (8.0, -5.0), **result),
    ]


def test_methods_are_compared_by_their_best_elbo_so_far():
    table = matched.matched_time(cells_frame(runs())).set_index(["seconds", "method"])
    assert table["elbo"].to_dict() == {(4.0, "fast"): -7.0, (4.0, "slow"): -6.0}  # before 3 s only one has validated
    table = matched.matched_time(cells_frame(runs()), fractions=(0.25, 0.75)).set_index(["seconds", "method"])
    assert table["elbo"].to_dict() == {(3.0, "fast"): -7.0, (3.0, "slow"): -6.0}
    assert table.loc[(3.0, "fast"), "n"] == 2


def test_seconds_must_be_comparable():
    assert matched.matched_time(cells_frame(runs(provenance=replace(PROVENANCE, threads=2)))) is None
    assert matched.matched_time(cells_frame(runs(cells_per_device=4))) is None
    assert matched.matched_time(cells_frame(runs()[:3])) is None
    beside_other_work = timed("slow", 1, (3.0, -6.0), (12.0, -5.0))
    assert matched.matched_time(cells_frame([*runs()[:3], beside_other_work])) is None


def test_panel_has_dashes_out_of_a_sweeps_range():
    cells = [*sweep("beta", BETA), *sweep("bits", BITS), *sweep("low", ((0.6, 50.0), (1.0, 49.0), (1.5, 48.0)))]
    document = Document("title", "label")
    sweeps = SWEEPS | {"low": ["low1", "low2", "low3"]}
    [panel] = matched.matched_panels(document, cells_frame(cells), sweeps)
    assert [column.text for column in panel.columns[1:4]] == ["NLL at 1 nats", "NLL at 3 nats", "NLL at 7 nats"]
    texts = {row[0].text: [entry.text for entry in row[1:4]] for row in panel.rows}
    assert [text == DASH for text in texts["low"]] == [False, True, True]
    assert [text == DASH for text in texts["bits"]] == [True, False, False]
    assert texts["beta"][1].startswith("46.25 [")
    assert {letter for column in panel.columns for letter in column.letters} == {*document.footnotes.values()}
