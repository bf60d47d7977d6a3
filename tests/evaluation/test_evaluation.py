import math
from dataclasses import make_dataclass, replace

import numpy as np
import pandas as pd
import pytest

from bench.core.errors import UserError
from bench.data import tensors
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.record import EvaluationRecord, GroupRecord
from bench.evaluation.registry import metric_groups
from bench.experiment.worker import run_cell
from tests.conftest import EVALUATION, MODEL

ALL_GROUPS = EVALUATION.with_overrides(
    {
        "metrics": tuple(metric_groups()),
        "convergence_examples": 2,
        "probe_examples": 30,
        "ais_examples": 2,
        "ais_chains": 2,
        "ais_steps": 4,
    }
)


def with_metrics(*names: str) -> EvaluationConfig:
    return replace(ALL_GROUPS, metrics=names)


def test_all_groups_yield_their_metrics(evaluation_of, prepared):
    data = tensors.load(prepared, MODEL)
    labels = {split: np.arange(len(getattr(data, split))) % 3 for split in ("train", "test")}
    evaluation = evaluation_of("vae", ALL_GROUPS, replace(data, labels=labels))
    metrics, record = evaluation.record.metrics, evaluation.record
    assert record.groups.keys() == metric_groups().keys() and not record.pending
    assert record.groups["ais"].settings == {"examples": 2, "chains": 2, "steps": 4}
    unavailable = {"probe_100", "probe_500", "probe_1000"}  # with 30 training examples
    for name, group in metric_groups().items():
        expected = set(group.metric_names) - unavailable
        assert expected <= metrics.keys() and all(math.isfinite(metrics[metric]) for metric in expected), name
    assert (
        metrics["iw_nll_50"] >= metrics["iw_nll_500"] - 0.05 and metrics["iw_nll_500"] >= metrics["iw_nll_5000"] - 0.05
    )
    assert metrics["gap_inference"] == pytest.approx(metrics["gap_amortisation"] + metrics["gap_approximation"])
    assert metrics["mi"] <= metrics["mi_loo"] and metrics["mi_high"] == min(metrics["mi_loo"], metrics["kl"])


@pytest.mark.parametrize(("examples", "first_class"), [(1, 0), (30, 3)])
def test_probe_of_one_example_or_no_known_class_is_undefined(evaluation_of, prepared, examples, first_class):
    data = tensors.load(prepared, MODEL)
    labels = {"train": np.arange(len(data.train)) % 3, "test": np.arange(len(data.test)) % 3 + first_class}
    config = with_metrics("probe").with_overrides({"probe_examples": examples})
    record = evaluation_of("vae", config, replace(data, labels=labels)).record
    assert record.metrics["probe"] is None and not record.pending


def test_model_without_latent_has_an_exact_nll(evaluation_of):
    metrics = evaluation_of("autoregressive", ALL_GROUPS).record.metrics
    assert metrics["nll"] == metrics["iw_nll"] and metrics["nll_se"] > 0
    for name in ("shuffle_gap", "gap_inference", "iw_nll_5000", "nll_ais", "mi_high", "pareto_k", "au_ratio"):
        assert metrics[name] is None, name


def test_sample_corrects_the_plain_nll(evaluation_of):
    evaluation = evaluation_of("vae", EVALUATION)
    columns, metrics = pd.DataFrame(evaluation.columns), evaluation.record.metrics
    sample = columns.dropna(subset=["nll"])
    assert list(sample["index"]) == [0, 6, 13, 19]
    correction = (sample["nll"] - sample["iw_nll"]).mean()
    assert metrics["nll"] == pytest.approx(columns["iw_nll"].mean() + correction)
    everything = evaluation_of("vae", EVALUATION.with_overrides({"refined_iw_examples": 1000}))
    assert everything.record.metrics["nll"] == pytest.approx(everything.columns["nll"].mean())


@pytest.mark.parametrize("expression", ["vae", pytest.param("sa_vae", marks=pytest.mark.slow)])
def test_groups_measured_later_equal_those_at_once(evaluation_of, expression):
    expected = evaluation_of(expression, ALL_GROUPS)
    evaluation = basic = evaluation_of(expression, with_metrics())
    for name in metric_groups():
        evaluation = evaluation_of(expression, with_metrics(name), stored=evaluation)
    assert evaluation.record.metrics == expected.record.metrics
    assert evaluation.record.seconds == basic.record.seconds, "the basic metrics were measured again"
    pd.testing.assert_frame_equal(pd.DataFrame(evaluation.columns), pd.DataFrame(expected.columns), check_like=True)


def test_new_basic_settings_repeat_stored_groups(evaluation_of):
    stored = evaluation_of("vae", with_metrics("latent_use"))
    config = with_metrics("convergence").with_overrides({"iw_samples": 30, "latent_use_examples": 3})
    saved = []
    record = evaluation_of("vae", config, stored=stored, save=saved.append).record
    assert record.groups.keys() == {"latent_use", "convergence"} and record.settings.iw_samples == 30
    assert record.groups["latent_use"].settings == {"examples": EVALUATION.groups["latent_use"].examples}
    assert [sorted(each.record.pending) for each in saved] == [["convergence", "latent_use"], ["convergence"], []]


def test_failing_group_leaves_the_others(evaluation_of, monkeypatch):
    def fail(trained, settings):
        raise RuntimeError("out of order")

    saved = []
    monkeypatch.setitem(vars(metric_groups()["latent_use"]), "measure", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        evaluation_of("vae", with_metrics("latent_use", "convergence"), save=saved.append)
    assert saved[-1].record.groups.keys() == {"convergence"} and saved[-1].record.pending.keys() == {"latent_use"}


def test_missing_parts_of_an_evaluation():
    config = ALL_GROUPS
    record = EvaluationRecord(settings=config.basic, metrics={}, seconds=1, chunk=1)
    groups = {name: GroupRecord(settings=config.group(name), seconds=1, chunk=1) for name in config.metrics}
    complete = record.model_copy(update={"groups": groups})
    assert config.missing(None) == ("basic", *config.metrics)
    assert config.missing(record) == config.metrics and config.missing(complete) == ()
    assert config.with_overrides({"refined_iw_steps": 7}).missing(complete) == ("refined_iw",)
    assert replace(config, iw_samples=7).missing(complete)[0] == "basic"
    assert config.missing(complete.model_copy(update={"version": 1}))[0] == "basic"
    assert EvaluationConfig().with_stored(complete).groups == config.groups
    assert EvaluationRecord.model_validate_json(complete.model_dump_json()) == complete


def test_settings_of_many_values_are_found_again():
    """JSON has lists where settings have tuples."""
    LevelSettings = make_dataclass("LevelSettings", [("levels", tuple[int, ...], (1, 2))], frozen=True)
    config = EvaluationConfig(metrics=("levels",), groups={"levels": LevelSettings()})
    group = GroupRecord(settings=config.group("levels"), seconds=1, chunk=1)
    record = EvaluationRecord(settings=config.basic, metrics={}, seconds=1, chunk=1, groups={"levels": group})
    stored = EvaluationRecord.model_validate_json(record.model_dump_json())
    assert config.missing(stored) == () and config.with_stored(stored) == config


def test_invalid_settings_are_refused(subtests):
    cases = [
        ({"refined_iw_step": 1}, "evaluation has no setting 'refined_iw_step': did you mean 'refined_iw_steps'?"),
        ({"groups": {}}, "evaluation has no setting 'groups'"),
        ({"metrics": ("refined",)}, "'metrics' has no group 'refined': did you mean 'refined_iw'?"),
        ({"ais_chains": 0}, "metric group ais: 'chains' must be positive"),
        ({"ais_chains": "x"}, "metric group ais: 'chains' takes a whole number, not 'x'"),
    ]
    for settings, message in cases:
        with subtests.test(settings=settings):
            with pytest.raises(UserError) as error:
                EvaluationConfig.build(settings)
            assert message in str(error.value)


def test_evaluation_is_stored_and_completed(planned, task):
    cell = planned("vae")
    run_cell(task(cell, evaluation=with_metrics()))
    weights = (cell.folder.path / "best.pt").stat().st_mtime_ns
    run_cell(task(cell, evaluation=with_metrics("latent_use")))
    record = cell.folder.evaluation()
    assert record.groups.keys() == {"latent_use"} and math.isfinite(record.metrics["shuffle_gap"])
    assert (cell.folder.path / "best.pt").stat().st_mtime_ns == weights, "trained again"
    curve = np.load(cell.folder.path / "arrays.npz")["collapse"]
    assert (np.diff(curve[1]) >= 0).all()
