"""Expressions: one row has one name, however it is typed; what is unknown is refused, and nothing is lost."""

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.core.syntax import parse_value, split_expressions
from bench.training import registry
from bench.training.expressions import parse_methods, split_settings
from tests.conftest import TOY, steady
from tests.experiment.test_plan import cells

COUNTS = st.integers(0, 100)
SHARES = st.floats(0, 1)
WEIGHTS = st.floats(0, 1e6)
POSITIVE = st.floats(1e-9, 1e6)
METHODS = {
    "vae": {},
    "autoregressive": {},
    "beta_vae": {"beta": WEIGHTS},
    "kl_annealing": {"start": WEIGHTS, "ramp": st.none() | SHARES},
    "sa_vae": {
        "steps": COUNTS,
        "lr": WEIGHTS,
        "momentum": WEIGHTS,
        "clip": POSITIVE,
        "gradient": st.sampled_from(("exact", "differences")),
        "difference": POSITIVE,
    },
    "aggressive": {"max_inner": COUNTS, "window": st.none() | st.integers(1, 99), "reset": st.booleans()},
}
SCHEDULES = {
    "anneal": {"start": WEIGHTS, "ramp": st.none() | SHARES},
    "cyclical": {"cycles": st.integers(1, 99), "ratio": st.floats(0.001, 1)},
}
SPACES = st.sampled_from(("", " ", "  ", "\t"))


@st.composite
def chosen(draw, known):
    """Some settings of something and their values, in any order."""
    names = draw(st.permutations(sorted(known)))[: draw(st.integers(0, len(known)))]
    return [(name, draw(known[name])) for name in names]


@st.composite
def expressions(draw):
    """(method, its settings, schedule or None, its settings)."""
    method = draw(st.sampled_from(sorted(METHODS)))
    fixed = "schedule" in registry.method(method).incompatible_with
    schedule = None if fixed else draw(st.sampled_from((None, *sorted(SCHEDULES))))
    return method, draw(chosen(METHODS[method])), schedule, draw(chosen(SCHEDULES[schedule])) if schedule else []


def text(method, settings, schedule, scheduled, space=""):
    def part(name, items):
        listed = f"{space},{space}".join(f"{space}{key}{space}={space}{value}{space}" for key, value in items)
        return f"{space}{name}{space}({listed}){space}" if items else f"{space}{name}{space}"

    return part(method, settings) + (f"+{part(schedule, scheduled)}" if schedule else "")


def row(expression, preset="quick", settings=None):
    (found,), _ = parse_methods([expression], preset, settings)
    return found


@steady
@given(expressions(), st.sampled_from(("quick", "small", "paper")))
def test_the_canonical_name_names_the_same_row(expression, preset):
    found = row(text(*expression), preset)
    again = row(found.expression, preset)
    assert again == found and again.record() == found.record()


@steady
@given(expressions(), SPACES, st.randoms(use_true_random=False))
def test_neither_the_order_of_settings_nor_spaces_matter(expression, space, random):
    method, settings, schedule, scheduled = expression
    shuffled = [random.sample(items, len(items)) for items in (settings, scheduled)]
    assert row(text(method, shuffled[0], schedule, shuffled[1], space)) == row(text(*expression))


@steady
@given(expressions())
def test_a_setting_is_the_same_by_set_and_in_the_expression(expression):
    method, settings, schedule, scheduled = expression
    given_by_set, protocol = split_settings(f"{method}.{key}={value}" for key, value in settings)
    assert not protocol
    assert row(text(method, [], schedule, scheduled), settings=given_by_set) == row(text(*expression))


@steady
@given(st.lists(COUNTS, min_size=1, max_size=5), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_sweep_is_the_product_of_its_values(steps, cycles):
    expression = f"sa_vae(steps={'|'.join(map(str, steps))})+cyclical(cycles={'|'.join(map(str, cycles))})"
    rows, sweeps = parse_methods([expression], "quick")
    alone = [row(f"sa_vae(steps={s})+cyclical(cycles={c})") for s, c in itertools.product(steps, cycles)]
    assert {found.expression: found for found in rows} == {one.expression: one for one in alone}
    assert sweeps == ({} if len(alone) == 1 else {expression: [one.expression for one in alone]})


@settings(steady, max_examples=300)
@given(st.text(max_size=40) | st.text("vae_bt(=)|,+.0 ", max_size=40))
def test_whatever_is_typed_is_rows_or_one_line_of_refusal(typed):
    for read in (lambda: parse_methods(split_expressions(typed), "quick"), lambda: split_settings([typed])):
        try:
            read()
        except UserError as error:
            assert str(error).isprintable()


@steady
@given(st.lists(expressions(), max_size=5), SPACES)
def test_a_list_is_split_into_the_expressions_that_were_joined(some, space):
    texts = [text(*expression, space).strip() for expression in some]
    assert split_expressions(f"{space},{space}".join(texts)) == texts


@steady
@given(st.text("ab,()+= ", max_size=30))
def test_splitting_loses_nothing_but_commas_and_spaces(typed):
    def letters(given):
        return [character for character in given if character not in ", "]

    parts = split_expressions(typed)
    assert letters("".join(parts)) == letters(typed) and all(part == part.strip() != "" for part in parts)


@steady
@given(st.text(max_size=60) | st.text("[](){}-+'1,", max_size=60))
def test_every_value_is_a_number_a_word_or_the_text_itself(typed):
    value = parse_value(typed)
    assert isinstance(value, (bool, int, float, complex, str, bytes, tuple, list, dict, set, type(None), type(...)))
    assert parse_value(repr(value)) == value or value != value or isinstance(value, str)


@settings(steady, max_examples=30)
@given(st.lists(expressions(), min_size=2, max_size=6))
def test_folders_are_safe_and_those_of_different_rows_differ(prepared, tmp_path_factory, some):
    out = tmp_path_factory.getbasetemp() / "nothing is written here"
    found = [cells(prepared, out, text(*expression), TOY)[0] for expression in some]
    folders = {cell.folder.path: cell.variant for cell in found}
    assert len(folders) == len({cell.variant.expression for cell in found})
    for folder in folders:
        *_, method, seed = folder.relative_to(out).parts
        assert re.fullmatch(r"[a-z][\w.=+-]*", method) and re.fullmatch(r"seed-0-[0-9a-f]{12}", seed)
        assert len(method) < 255 and not method.endswith(".")
