"""Seeds: functions of their parts, all different, and the same for every method."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.hashing import derive_seed
from bench.training.factory import build_from_config
from tests.conftest import steady

PARTS = st.lists(st.integers() | st.text(max_size=4) | st.booleans() | st.none(), max_size=4).map(tuple)


def told_apart(parts):
    """What equality in Python does not tell apart: 1 and True."""
    return [(type(part), part) for part in parts]


@steady
@given(PARTS, PARTS)
def test_a_seed_is_a_function_of_its_parts_and_of_nothing_less(one, other):
    assert 0 <= derive_seed(*one) < 2**63
    assert (derive_seed(*one) == derive_seed(*other)) == (told_apart(one) == told_apart(other))


@steady
@given(st.text(max_size=6), st.integers(0, 6), st.integers(0, 10**6))
def test_neighbours_do_not_collide(text, cut, counter):
    cut %= len(text) + 1
    parts = [
        (text, counter),
        (text, counter + 1),
        (text, str(counter)),
        (f"{text}{counter}",),
        ((text, counter),),
        (text[:cut], text[cut:], counter),
        (counter, text),
        (text, counter, 0),
    ]
    assert len({derive_seed(*each) for each in parts}) == len(parts)


def test_a_hundred_thousand_seeds_are_all_different():
    purposes = ("outer", "drawn", "noise", "order", "init")
    seeds = {derive_seed(base, purpose, n) for base in range(10) for purpose in purposes for n in range(2000)}
    assert len(seeds) == 100_000
    assert {seed.bit_length() for seed in seeds} >= {62, 63}


@pytest.mark.parametrize("expression", ["beta_vae", "sa_vae+anneal", "aggressive", "autoregressive"])
def test_the_method_is_not_among_the_parts_and_the_seed_is(expression, planned):
    seed = build_from_config(planned("vae").config)[2]
    assert build_from_config(planned(expression).config)[2] == seed
    assert build_from_config(planned(expression, seed=1).config)[2] != seed
