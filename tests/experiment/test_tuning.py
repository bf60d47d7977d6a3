"""The plan of trials and the rules that select one."""

import math

import pytest

from bench.core.errors import UserError
from bench.core.space import Choice, Range
from bench.experiment.presets import load_preset
from bench.experiment.tuning.trials import SEARCHES, Planner, Rule
from bench.method import DataInfo
from bench.training.expressions import parse_methods, search_space, with_settings

TEXT = DataInfo("toy", "toy", "text", "nats", (6,), vocabulary=9, sizes={"train": 9, "val": 9, "test": 9})


def rows(*expressions):
    return parse_methods(expressions, "small")[0]


@pytest.fixture
def planner(tmp_path):
    return Planner(TEXT, load_preset("small", "text"), 7, "cpu", tmp_path)


@pytest.mark.parametrize("preset", ["quick", "small", "paper"])
def test_every_corner_of_every_space_is_valid(preset):
    for row in parse_methods(["all", "vae+anneal", "vae+cyclical+free_bits"], preset)[0]:
        space = search_space(row, preset)
        assert ("learning_rate", "scale") in space  # a method without settings searches, too
        for position in (0.0, 0.5, 1 - 1e-9):
            changed = {place: values.at(position) for place, values in space.items()}
            trial = with_settings(row, changed, preset)
            ((again,), _) = parse_methods([trial.expression], preset)  # the row can be typed
            assert again.config == trial.config and again.lr_scale == trial.lr_scale


def test_positions_cover_a_range_evenly():
    positions = [(i + 0.5) / 1000 for i in range(1000)]
    assert sum(Range(1.0, 100.0).at(u) < 10 for u in positions) == 500  # uniform in the logarithm
    assert sum(Range(0.0, 1.0, log=False).at(u) < 0.25 for u in positions) == 250
    counts = [sum(Range(1, 4, log=False).at(u) == value for u in positions) for value in (1, 2, 3, 4)]
    assert counts == [250] * 4
    assert [Choice(("a", "b")).at(u) for u in (0.0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]
    assert type(Range(2, 20).at(0.3)) is int and 2 <= Range(2, 20).at(1 - 1e-12) <= 20


def test_more_trials_extend_fewer_and_repetitions_differ(planner):
    (row,) = rows("beta_vae")
    first, second = planner.searches([row], 2)
    few = [*planner.extend(first, 4)]
    planner.extend(first, 16), planner.extend(second, 16)
    assert first.trials[:4] == few and few[0].variant == row == second.trials[0].variant
    trials = [cell.variant for cell in (*first.trials[1:], *second.trials[1:])]
    assert len({trial.expression for trial in trials}) == 30
    assert {trial.config.beta < 0.55 for trial in trials} == {True, False}


def test_given_settings_are_not_searched(planner):
    (row,) = rows("free_bits(target=3)+anneal+lr(scale=0.5)")
    assert {place for place, _ in search_space(row, "small")} == {"schedule"}
    (search,) = planner.searches([row], 1)
    assert {cell.variant.config.target for cell in planner.extend(search, 8)} == {3}


def test_a_trial_has_the_same_seed_for_every_method(planner):
    searches = planner.searches(rows("vae", "beta_vae"), 2)
    seeds = {
        (search.row.method.name, search.seed): [
            (cell.config.base_seed, cell.config.seed) for cell in planner.extend(search, 3)
        ]
        for search in searches
    }
    assert seeds["vae", 0] == seeds["beta_vae", 0] and seeds["vae", 1] == seeds["beta_vae", 1]
    assert len({*seeds["vae", 0], *seeds["vae", 1]}) == 6
    final = planner.final(searches[0], 2)
    assert (final.config.base_seed, final.config.seed) == (7, 0)  # fresh, and that of an untuned row
    assert final.config.method == searches[0].trials[2].config.method
    assert final.config.scaled_train.lr == pytest.approx(planner.preset.train.lr * final.config.method.lr_scale)


def test_rules_select_by_nll_or_by_mi_near_the_baseline():
    trials = [(math.nan, 9.0), (40.0, 0.1), (39.8, 0.0), (40.2, 2.0), (41.0, 5.0)]
    assert Rule().select(trials) == 2
    assert Rule.parse("mi_at_nll:0.5").select(trials, baseline=39.9) == 3
    assert Rule.parse("mi_at_nll:2").select(trials, baseline=39.9) == 4
    assert Rule.parse("mi_at_nll:0.5").select(trials, baseline=30.0) == 2  # none is near: the lowest NLL
    collapsed = [(40.4, 0.09), (40.0, -0.01), (40.2, 0.02)]  # their MI is noise
    assert Rule.parse("mi_at_nll:0.5").select(collapsed, baseline=40.0) == 1
    assert Rule().select([(math.nan, 0.0)]) is None
    assert str(Rule.parse("mi_at_nll:0.50")) == "mi_at_nll:0.5"
    with pytest.raises(UserError, match="write nll, or"):
        Rule.parse("elbo")


def test_optuna_finds_a_minimum():
    nlls, distances = [math.nan], []
    for _ in range(24):
        x, y = SEARCHES["optuna"](2, 3, nlls)
        distances.append(math.hypot(x - 0.7, y - 0.2))
        nlls.append(math.nan if x < 0.05 else 40 + distances[-1])
    assert min(distances) < 0.1
    assert sum(distances[12:]) < sum(distances[:12])
