"""The plan of trials and the rules that select one."""

import math

import pytest

from bench.core.errors import UserError
from bench.core.space import Choice, Range
from bench.experiment.presets import load_preset
from bench.experiment.tuning.trials import Rule, plan_final, plan_trials, trial_rows
from bench.method import DataInfo
from bench.training.expressions import parse_methods, search_space, with_settings

TEXT = DataInfo("toy", "toy", "text", "nats", (6,), vocabulary=9, sizes={"train": 9, "val": 9, "test": 9})


def rows(*expressions):
    return parse_methods(expressions, "small")[0]


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


def test_more_trials_extend_fewer_and_repetitions_differ():
    (row,) = rows("beta_vae")
    few, many, other = (trial_rows(row, "small", count, seed) for count, seed in ((4, 1), (16, 1), (16, 2)))
    assert [trial.expression for trial in many[:4]] == [trial.expression for trial in few]
    assert few[0] == row == other[0]  # the row's own settings
    assert len({trial.expression for trial in (*many[1:], *other[1:])}) == 30
    assert {trial.config.beta < 0.55 for trial in many[1:]} == {True, False}


def test_given_settings_are_not_searched():
    (row,) = rows("free_bits(target=3)+anneal+lr(scale=0.5)")
    assert {place for place, _ in search_space(row, "small")} == {"schedule"}
    assert {trial.config.target for trial in trial_rows(row, "small", 8, 0)} == {3}


def test_a_trial_has_the_same_seed_for_every_method(tmp_path):
    preset = load_preset("small", "text")
    searches = plan_trials(rows("vae", "beta_vae"), TEXT, preset, 3, 2, 7, "cpu", tmp_path)
    seeds = {
        (s.row.method.name, s.seed): [(cell.config.base_seed, cell.config.seed) for cell in s.trials] for s in searches
    }
    assert seeds["vae", 0] == seeds["beta_vae", 0] and seeds["vae", 1] == seeds["beta_vae", 1]
    assert len({*seeds["vae", 0], *seeds["vae", 1]}) == 6
    final = plan_final(searches[0], 2, TEXT, preset, 7, "cpu", tmp_path)
    assert (final.config.base_seed, final.config.seed) == (7, 0)  # fresh, and that of an untuned row
    assert final.config.method == searches[0].trials[2].config.method
    assert final.config.scaled_train.lr == pytest.approx(preset.train.lr * final.config.method.lr_scale)


def test_rules_select_by_nll_or_by_mi_near_the_baseline():
    trials = [(math.nan, 9.0), (40.0, 0.1), (39.8, 0.0), (40.2, 2.0), (41.0, 5.0)]
    assert Rule().select(trials) == 2
    assert Rule.parse("mi_at_nll:0.5").select(trials, baseline=39.9) == 3
    assert Rule.parse("mi_at_nll:2").select(trials, baseline=39.9) == 4
    assert Rule.parse("mi_at_nll:0.5").select(trials, baseline=30.0) == 2  # none is near: the lowest NLL
    assert Rule().select([(math.nan, 0.0)]) is None
    assert str(Rule.parse("mi_at_nll:0.50")) == "mi_at_nll:0.5"
    with pytest.raises(UserError, match="nll_common"):
        Rule.parse("elbo")
