"""KL schedules: pure functions of the step that end at 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.modifiers import Constant, Cyclical, Linear
from bench.experiment.presets import load_preset
from tests.conftest import steady

TOTALS = st.integers(1, 10_000)
SHARES = st.floats(0, 1)
LINEAR = st.builds(Linear, start=st.floats(0, 3), ramp=st.none() | SHARES)
CYCLICAL = st.builds(Cyclical, cycles=st.integers(1, 20), ratio=st.floats(0.01, 1))
ANY = LINEAR | CYCLICAL | st.just(Constant())


@steady
@given(ANY, TOTALS, SHARES, st.data())
def test_weights_end_at_exactly_one(schedule, total, ramp, data):
    start = {Linear: lambda: schedule.start, Cyclical: lambda: 0.0, Constant: lambda: 1.0}[type(schedule)]()
    step = data.draw(st.integers(0, total))
    assert min(start, 1) <= schedule.weight(step, total, ramp) <= max(start, 1)
    assert schedule.weight(total, total, ramp) == schedule.weight(total + step, total, ramp) == 1


@steady
@given(LINEAR, st.integers(1, 300), SHARES)
def test_linear_schedule_is_a_line_and_then_one(schedule, total, ramp):
    length = total * (ramp if schedule.ramp is None else schedule.ramp)
    for step in range(total + 1):
        line = schedule.start + (1 - schedule.start) * step / length if step < length else 1
        assert schedule.weight(step, total, ramp) == pytest.approx(line, abs=1e-12)


@steady
@given(st.integers(1, 10), st.floats(0.01, 1), st.integers(1, 50), SHARES, st.data())
def test_cycles_are_equal(cycles, ratio, length, ramp, data):
    schedule, total = Cyclical(cycles, ratio), cycles * length
    position = data.draw(st.integers(0, length - 1))
    weights = [schedule.weight(cycle * length + position, total, ramp) for cycle in range(cycles)]
    assert weights == pytest.approx([min(1, position / length / ratio)] * cycles, abs=1e-6)


def test_warm_up_of_the_paper_is_ten_epochs():
    train = load_preset("paper", "image").train
    assert train.ramp * train.epochs == pytest.approx(10)
