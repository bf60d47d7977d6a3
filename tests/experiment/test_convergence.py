"""Convergence of a cell, from constructed histories."""

import math
from dataclasses import replace

import pytest

from bench.experiment.convergence import converged, gain
from tests.fixtures.make_cells import TRAIN
from tests.reporting.records import finished_cell

LAST = {"best_update": None}  # the last weights were kept
RISING = [-50.0 - 10 * 0.5**epoch for epoch in range(10)]


def cell(values, name="elbo", changes=(), **options):
    """A cell with one validation per ten updates; ``changes`` are of the first lines."""
    history = [{"update": 10 * (i + 1), "elbo": -9.0, name: value} for i, value in enumerate(values)]
    history = [line | (changes[i] if i < len(changes) else {}) for i, line in enumerate(history)]
    return finished_cell("vae", history=history, **options)


CASES = {
    "flat": (cell([-50.0] * 10), 0.0, True),
    "slowly rising": (cell(RISING), 10 * (0.5**7 - 0.5**9), True),
    "late rise": (cell([-50.0] * 8 + [-50.1, -47.0]), 3.0, False),
    "at the tolerance": (cell([-50.0] * 9 + [-49.5]), 0.5, False),
    "noise below the best": (cell([-50.0, -48.0, *[-49.0, -48.1] * 4]), 0.0, True),
    "own loss": (cell([50.0] * 8 + [49.0, 47.0], name="loss"), 3.0, False),
    "KL weight below 1": (cell([-40.0] * 3 + [-50.0] * 6 + [-45.0], changes=[{"beta": 0.5}] * 3), 5.0, False),
    "earlier phase": (cell([-40.0] * 5 + [-50.0] * 4 + [-45.0], changes=[{"phase": "first"}] * 5), 5.0, False),
    "nothing before the last fifth": (cell([-50.0] * 10, changes=[{"beta": 0.5}] * 8), math.inf, False),
    "nothing at all": (cell([-50.0] * 10, changes=[{"beta": 0.5}] * 10), math.nan, False),
    "last weights kept, falling": (cell([-40.0, *[-50.0] * 7, -50.5, -51.0], costs=LAST), 1.0, False),
    "last weights kept, settled": (cell([-40.0, *[-50.0] * 8, -49.9], costs=LAST), 0.1, True),
    "loss rises": (cell([-50.0] * 10, changes=[{"train_loss": 0.4}]), 0.0, False),
    "loss rises after warm-up": (cell([-50.0] * 10, changes=[{"train_loss": 0.4, "beta": 0.5}]), 0.0, True),
    "limit reached": (cell([-50.0] * 10, costs={"limit_reached": True}), 0.0, False),
}


@pytest.mark.parametrize("case", CASES)
def test_gain_of_the_last_fifth(case):
    record, expected, is_converged = CASES[case]
    assert gain(record) == pytest.approx(expected, nan_ok=True)
    assert converged(record) is is_converged


def test_tolerance_is_a_setting():
    values = [-50.0] * 9 + [-49.0]
    assert not converged(cell(values))
    assert converged(cell(values, train=replace(TRAIN, tolerance=1.1)))
