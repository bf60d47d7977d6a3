"""Method expressions: one row has one name, sweeps, modifiers, settings, errors."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.core.syntax import parse_value, split_expressions
from bench.training import registry
from bench.training.expressions import parse_methods, parse_settings
from tests.conftest import steady

COUNTS = st.integers(0, 100)
SHARES = st.floats(0, 1)
WEIGHTS = st.floats(0, 1e6)
POSITIVE = st.floats(1e-9, 1e6)
METHODS = {
    "vae": {},
    "beta_vae": {"beta": WEIGHTS},
    "kl_annealing": {"start": WEIGHTS, "ramp": st.none() | SHARES},
    "sa_vae": {"steps": COUNTS, "clip": POSITIVE, "gradient": st.sampled_from(("exact", "differences"))},
    "aggressive": {"max_inner": COUNTS, "window": st.none() | st.integers(1, 99), "reset": st.booleans()},
}
SCHEDULES = {
    "anneal": {"start": WEIGHTS, "ramp": st.none() | SHARES},
    "cyclical": {"cycles": st.integers(1, 99), "ratio": st.floats(0.001, 1)},
}


@st.composite
def settings_of(draw, choices):
    """Some settings and their values, in any order."""
    names = draw(st.permutations(sorted(choices)))[: draw(st.integers(0, len(choices)))]
    return [(name, draw(choices[name])) for name in names]


@st.composite
def expressions(draw):
    """(method, its settings, schedule or None, its settings)."""
    method = draw(st.sampled_from(sorted(METHODS)))
    fixed = "schedule" in registry.method(method).incompatible_with
    schedule = None if fixed else draw(st.sampled_from((None, *sorted(SCHEDULES))))
    return method, draw(settings_of(METHODS[method])), schedule, draw(settings_of(SCHEDULES.get(schedule, {})))


def text(method, method_settings, schedule, schedule_settings, space=""):
    def call(name, items):
        arguments = f"{space},{space}".join(f"{key}{space}={space}{value}" for key, value in items)
        return f"{name}{space}({arguments})" if items else name

    return call(method, method_settings) + (f"{space}+{call(schedule, schedule_settings)}" if schedule else "")


def row(expression, preset="quick", overrides=None):
    (spec,), _ = parse_methods([expression], preset, overrides)
    return spec


def names(*typed, preset="quick", overrides=None):
    return [spec.expression for spec in parse_methods(typed, preset, overrides)[0]]


@steady
@given(expressions(), st.sampled_from(("quick", "small", "paper")), st.sampled_from(("", " ", "\t")))
def test_canonical_expression_is_a_fixed_point(expression, preset, space):
    spec = row(text(*expression, space), preset)
    assert row(spec.expression, preset) == spec


@steady
@given(expressions())
def test_set_and_expression_are_equivalent(expression):
    method, given_settings, schedule, schedule_settings = expression
    overrides, sections = parse_settings(f"{method}.{key}={value}" for key, value in given_settings)
    assert not sections
    assert row(text(method, [], schedule, schedule_settings), overrides=overrides) == row(text(*expression))


@steady
@given(st.lists(COUNTS, min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_sweep_is_the_product_of_its_values(steps, cycles):
    expression = f"sa_vae(steps={'|'.join(map(str, steps))})+cyclical(cycles={'|'.join(map(str, cycles))})"
    rows, sweeps = parse_methods([expression], "quick")
    single = names(*(f"sa_vae(steps={s})+cyclical(cycles={c})" for s, c in itertools.product(steps, cycles)))
    assert [spec.expression for spec in rows] == single
    assert [*sweeps] == ([expression] if len(steps) * len(cycles) > 1 else [])


@settings(steady, max_examples=300)
@given(st.text(max_size=40) | st.text("vae_bt(=)|,+.0 ", max_size=40))
def test_any_text_is_rows_or_a_one_line_error(typed):
    for parse in (lambda: parse_methods(split_expressions(typed), "quick"), lambda: parse_settings([typed])):
        try:
            parse()
        except UserError as error:
            assert str(error).isprintable()


@steady
@given(st.text(max_size=60) | st.text("[](){}-+'1,", max_size=60))
def test_parse_value_inverts_repr(typed):
    value = parse_value(typed)
    assert parse_value(repr(value)) == value or value != value or isinstance(value, str)


def test_lists_are_split_at_top_level_commas():
    assert split_expressions("vae, sa_vae(steps=3,lr=0.1)+anneal ,core,") == [
        "vae",
        "sa_vae(steps=3,lr=0.1)+anneal",
        "core",
    ]


def test_defaults_are_left_out_of_names():
    assert names("beta_vae", "beta_vae( beta = 0.4 )", "beta_vae(beta=.4)") == ["beta_vae(beta=0.4)"]
    assert names("sa_vae", "sa_vae(steps=10)", preset="paper") == ["sa_vae"]
    assert names("vae+anneal", "vae + anneal(start=0.1)") == ["vae+anneal"]


def test_modifiers_have_one_order():
    expected = ["vae+free_bits(target=4.0)+anneal"]
    assert names("vae+anneal+free_bits(target=4)", "vae+free_bits(target=4)+anneal") == expected


def test_preset_overrides_are_defaults_with_a_note():
    assert row("sa_vae").config.steps == 2 and "steps = 2" in row("sa_vae").notes[0]
    assert row("sa_vae(steps=10)").expression == "sa_vae(steps=10)" and not row("sa_vae(steps=10)").notes


def test_expressions_take_precedence_over_set():
    overrides, sections = parse_settings(["sa_vae.steps=3", "train.epochs=3", "model.kernels=(3,3)"])
    assert sections == {"train": {"epochs": 3}, "model": {"kernels": (3, 3)}}
    assert names("sa_vae", "sa_vae(steps=4)", overrides=overrides) == ["sa_vae(steps=3)", "sa_vae(steps=4)"]


def test_expression_errors(subtests):
    cases = [
        ("vea", "unknown method 'vea': did you mean 'vae'?"),
        ("vae(", "cannot read 'vae(': write a name, or name(setting=value)"),
        ("", "cannot read ''"),
        ("vae+", "cannot read 'vae+': write a name on both sides of '+'"),
        ("beta_vae(beta=0.4|)", "cannot read 'beta=0.4|' in 'beta_vae(beta=0.4|)': write a value on both sides of '|'"),
        ("free_bits+vae", "'+vae' is a method: write it first, and after '+' one of anneal, cyclical, free_bits"),
        ("core+anneal", "'core' is a suite, without settings and '+': name methods, such as autoregressive"),
        ("beta_vae(0.4)", "write settings as name=value"),
        ("beta_vae(beta=)", "write settings as name=value"),
        ("beta_vae(beta=1,beta=2)", "sets 'beta' twice"),
        ("info_vae(alpha=0.2,lam=0.7)", "'lam' must be at least 1 - alpha"),
        ("beta_vae(bta=1)", "no setting 'bta': did you mean 'beta'?"),
        ("sa_vae(steps=2.5)", "'steps' takes a whole number, not 2.5"),
        ("sa_vae(steps=-1)", "'steps' must not be negative, not -1"),
        ("sa_vae(steps=1|2|3|4|5|6|7|8|9|10,lr=1|2|3|4|5|6|7|8|9|10,clip=1|2|3|4|5|6|7|8|9|10|11)", "1,100 rows"),
        ("vae+cyclical(cycles=0)", "'cycles' must be positive, not 0"),
        ("vae+aneal", "unknown modifier '+aneal': did you mean 'anneal'?"),
        ("vae+anneal+cyclical", "'+cyclical' is a second schedule"),
        ("kl_annealing+anneal", "'+anneal' is a second schedule"),
        ("free_bits+free_bits", "cannot be combined with free_bits, leave it out: it has"),
    ]
    for expression, message in cases:
        with subtests.test(expression=expression):
            with pytest.raises(UserError) as caught:
                parse_methods([expression], "quick")
            assert message in str(caught.value)


def test_other_names_are_the_same_row():
    assert names("kl_annealing", "vae+anneal", "cyclical_annealing") == ["vae+anneal", "vae+cyclical"]
    assert row("kl_annealing(start=0.2)+free_bits") == row("vae+free_bits+anneal(start=0.2)")
    assert row("kl_annealing", overrides={"kl_annealing": {"start": 0.2}}).expression == "vae+anneal(start=0.2)"
    for cls in map(registry.method, registry.method_names()):
        if cls.same_as:
            [attached] = [modifier.value for modifier in row(cls.same_as).modifiers.values()]
            assert attached == cls.Config()


def test_set_errors(subtests):
    for assignment in ["vae", "vae.x", "vea.x=1"]:
        with subtests.test(assignment=assignment):
            with pytest.raises(UserError, match="write method.setting=value or train|did you mean 'vae'"):
                parse_settings([assignment])


def test_set_for_a_method_outside_the_run():
    with pytest.raises(UserError, match="'sa_vae' is not in --methods: add it"):
        parse_methods(["vae"], "quick", {"sa_vae": {"steps": "2"}})


def test_suites_expand_to_expressions():
    assert all(parse_methods([suite], "quick")[0] for suite in registry.suites())
    assert [row.expression for row in parse_methods(["core"], "quick")[0]] == [
        "autoregressive", "vae", "vae+anneal", "beta_vae(beta=0.4)", "sa_vae", "aggressive",
    ]  # fmt: skip
    assert [row.expression for row in parse_methods(["paper"], "paper")[0]] == [
        "autoregressive", "vae", "vae+anneal",
        "beta_vae(beta=0.2)", "beta_vae(beta=0.4)", "beta_vae(beta=0.6)", "beta_vae(beta=0.8)",
        "sa_vae", "sa_vae+anneal", "aggressive", "aggressive+anneal",
    ]  # fmt: skip
    assert "aggressive(guarded=False)" in [row.expression for row in parse_methods(["paper"], "small")[0]]
