"""Statistics: intervals around their mean, differences with a sign, noise that is never less than its parts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.statistics import crossed, paired, student_t, summary, wilson
from tests.conftest import steady

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)
PAIRS = st.dictionaries(st.integers(0, 9), st.floats(-1e6, 1e6), max_size=8)


@steady
@given(VALUES, st.randoms(use_true_random=False), st.floats(-1e6, 1e6), st.floats(-10, 10))
def test_an_interval_moves_with_its_values_and_not_with_their_order(values, random, shift, scale):
    found = summary(values)
    assert summary(random.sample(values, len(values))) == found
    assert summary([*values, math.nan]) == found
    assert min(values) - 1e-6 <= found.mean <= max(values) + 1e-6
    assert found.high - found.mean == pytest.approx(found.mean - found.low, rel=1e-6, abs=1e-6)
    half = student_t(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.high - found.mean == pytest.approx(half, rel=1e-6, abs=1e-6)
    moved = summary([scale * value + shift for value in values])
    assert moved.mean == pytest.approx(scale * found.mean + shift, rel=1e-6, abs=1e-3)
    assert moved.sd == pytest.approx(abs(scale) * found.sd, rel=1e-6, abs=1e-3)


@steady
@given(PAIRS, PAIRS)
def test_a_paired_difference_has_a_sign(values, reference):
    there, back = paired(values, reference), paired(reference, values)
    assert there.n == back.n == len({*values} & {*reference})
    mirrored = (-back.mean, back.sd, -back.high, -back.low)
    assert (there.mean, there.sd, there.low, there.high) == pytest.approx(mirrored, nan_ok=True)


@steady
@given(PAIRS, st.floats(-1e3, 1e3))
def test_the_difference_from_itself_is_0_and_from_a_shift_the_shift(values, shift):
    itself = paired(values, values)
    assert itself.n == len(values) and (not values or itself.mean == 0)
    moved = paired({key: value + shift for key, value in values.items()}, values)
    assert not values or moved.mean == pytest.approx(shift, abs=1e-6)


@steady
@given(
    st.integers(2, 6), st.integers(2, 20), st.sampled_from((0, 0.1, 3)), st.sampled_from((0, 1, 9)), st.integers(0, 999)
)
def test_crossed_noise_is_no_less_than_that_of_seeds_or_of_examples(seeds, examples, of_seeds, of_examples, seed):
    random = np.random.default_rng(seed)
    values = random.normal(size=(seeds, examples))
    values += of_seeds * random.normal(size=(seeds, 1)) + of_examples * random.normal(size=examples)
    found = crossed(values)
    half = (found.high - found.low) / 2
    residual = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    of_residual = (residual**2).sum() / ((seeds - 1) * (examples - 1))
    from_seeds = values.mean(1).var(ddof=1) / seeds
    from_examples = max(0.0, values.mean(0).var(ddof=1) / examples - of_residual / values.size)
    assert half >= 1.9599 * math.sqrt(from_seeds + from_examples) - 1e-9  # Student's t is at least the normal's
    assert half >= 1.9599 * math.sqrt(max(from_seeds, from_examples)) - 1e-9
    assert found.mean == pytest.approx(values.mean()) and found.n == seeds
    again = crossed(values[::-1, ::-1])
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


@steady
@given(st.integers(1, 1000), st.data())
def test_the_interval_of_a_share_holds_the_share_within_0_and_1(n, data):
    count = data.draw(st.integers(0, n))
    low, high = wilson(count, n)
    assert 0 <= low <= count / n <= high <= 1
    assert wilson(n - count, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)
