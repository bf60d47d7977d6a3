"""Schedules: pure functions of the step that end at 1."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.schedules import Constant, Cyclical, Linear
from tests.conftest import steady

TOTALS = st.integers(1, 10_000)
SHARES = st.floats(0, 1)
LINEAR = st.builds(Linear, start=st.floats(0, 3), ramp=st.none() | SHARES)
CYCLICAL = st.builds(Cyclical, cycles=st.integers(1, 20), ratio=st.floats(0.01, 1))
ANY = LINEAR | CYCLICAL | st.just(Constant())


@steady
@given(ANY, TOTALS, SHARES, st.data())
def test_weights_lie_between_the_start_and_1_and_are_exactly_1_at_the_end(schedule, total, ramp, data):
    start = {Linear: lambda: schedule.start, Cyclical: lambda: 0.0, Constant: lambda: 1.0}[type(schedule)]()
    step = data.draw(st.integers(0, total))
    weight = schedule.weight(step, total, ramp)
    assert min(start, 1) <= weight <= max(start, 1)
    assert schedule.weight(step, total, ramp) == weight  # whatever was asked before
    assert schedule.weight(total, total, ramp) == schedule.weight(total + step, total, ramp) == 1


@steady
@given(LINEAR, st.integers(1, 300), SHARES)
def test_a_ramp_is_a_line_and_then_1(schedule, total, ramp):
    weights = [schedule.weight(step, total, ramp) for step in range(total + 1)]
    length = total * (ramp if schedule.ramp is None else schedule.ramp)
    up = schedule.start <= 1
    assert all(one <= other if up else one >= other for one, other in itertools.pairwise(weights))
    for step, weight in enumerate(weights):
        line = schedule.start + (1 - schedule.start) * step / length if step < length else 1
        assert weight == pytest.approx(line, abs=1e-12)


@steady
@given(st.integers(1, 10), st.floats(0.01, 1), st.integers(1, 50), SHARES, st.data())
def test_cycles_are_alike_and_each_reaches_1(cycles, ratio, length, ramp, data):
    schedule, total = Cyclical(cycles, ratio), cycles * length
    place = data.draw(st.integers(0, length - 1))
    weights = [schedule.weight(cycle * length + place, total, ramp) for cycle in range(cycles)]
    assert weights == pytest.approx([min(1, place / length / ratio)] * cycles, abs=1e-6)
