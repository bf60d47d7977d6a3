"""Groups of metrics: what they say of a trained cell, and how they are filled into one."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from bench.core.config import EVALUATION_VERSION, GROUPS, EvaluationConfig
from bench.core.errors import UserError
from bench.data.tensors import load
from bench.experiment.worker import run_cell
from tests.conftest import EVALUATION, MODEL, TEXT_MODEL

EVERY = replace(
    EVALUATION,
    metrics=GROUPS,
    convergence_examples=2,
    probe_examples=30,
    ais_examples=2,
    ais_chains=3,
    ais_steps=8,
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Bright and dark pictures, whose labels say which; in a cache of their own."""
    from bench.data.cache import cached
    from bench.data.dataset import DataInfo

    def build():
        random = np.random.default_rng(0)
        splits = {}
        for split, count in (("train", 100), ("val", 30), ("test", 30)):
            splits[f"{split}_labels"] = labels = random.integers(2, size=count)
            level = np.where(labels, 0.9, 0.1)[:, None, None]
            splits[split] = np.broadcast_to(level, (count, 28, 28)).astype(np.float32)
        splits["label_names"] = np.array(["dark", "bright"])
        return DataInfo("toy", "toy", "image", "nats per image", (28, 28)), splits

    return cached(tmp_path_factory.mktemp("cache"), "labelled", build)


def run(cell, task, config: EvaluationConfig) -> dict:
    run_cell(task(cell, evaluation=asdict(config)))
    result = cell.folder.result()
    assert "evaluation_failure" not in result, result["evaluation_failure"]["traceback"]
    return cell.folder.evaluation()


def test_every_group_finds_what_it_promises(planned, task):
    cell = planned("vae")
    record = run(cell, task, EVERY)
    metrics = record["metrics"]
    assert record["groups"].keys() == {*GROUPS}
    assert record["groups"]["ais"]["settings"] == {"examples": 2, "chains": 3, "steps": 8}
    for name in ("nll_refined", "nll_50", "nll_500", "nll_5000", "nll_ais", "shuffle_gap", "prior_gap"):
        assert math.isfinite(metrics[name]), name
    assert metrics["nll_50"] >= metrics["nll_500"] - 0.05 and metrics["nll_500"] >= metrics["nll_5000"] - 0.05
    assert metrics["gap_inference"] == pytest.approx(metrics["gap_amortisation"] + metrics["gap_approximation"])
    assert metrics["mi"] <= metrics["mi_loo"] and metrics["mi_high"] == min(metrics["mi_loo"], metrics["kl"])
    assert "probe" not in metrics  # there are no labels
    curve = np.load(cell.folder.path / "arrays.npz")["collapse"]
    assert (np.diff(curve[1]) >= 0).all() and 0 <= curve[1].min() <= curve[1].max() <= 1


def test_a_model_without_a_latent_is_judged_exactly(planned, task):
    metrics = run(planned("autoregressive"), task, EVERY)["metrics"]
    assert metrics["nll_refined"] == metrics["nll"] and metrics["nll_refined_se"] > 0
    for name in ("shuffle_gap", "gap_inference", "nll_5000", "nll_ais", "mi_high", "pareto_k", "au_ratio"):
        assert metrics[name] is None, name


def test_the_common_nll_of_all_examples_is_the_plain_one_corrected_by_the_sample(planned, task):
    cell = planned("vae")
    metrics = run(cell, task, EVALUATION)["metrics"]
    examples = pd.read_parquet(cell.folder.path / "examples.parquet")
    sampled = examples.dropna(subset=["nll_refined"])
    assert len(sampled) == EVALUATION.refined_iw_examples and list(sampled["index"]) == [0, 6, 13, 19]
    correction = (sampled["nll_refined"] - sampled["nll"]).mean()
    assert metrics["nll_refined"] == pytest.approx(examples["nll"].mean() + correction)
    assert metrics["elbo_refined"] == pytest.approx(sampled["elbo_refined"].mean())


def test_a_refined_proposal_of_every_example_is_the_mean_over_all(planned, task):
    cell = planned("vae")
    metrics = run(cell, task, replace(EVALUATION, refined_iw_examples=1000))["metrics"]
    examples = pd.read_parquet(cell.folder.path / "examples.parquet")
    assert metrics["nll_refined"] == pytest.approx(examples["nll_refined"].mean())


@pytest.mark.parametrize("expression", ["vae", "sa_vae", "aggressive"])
def test_groups_filled_in_later_are_those_of_one_evaluation(planned, task, expression, tmp_path):
    at_once, later = planned(expression, out=tmp_path / "one"), planned(expression, out=tmp_path / "two")
    run(at_once, task, EVERY)
    base = run(later, task, replace(EVERY, metrics=()))
    before = {name: (later.folder.path / name).stat().st_mtime_ns for name in ("best.pt", "history.jsonl")}
    for group in GROUPS:
        run(later, task, replace(EVERY, metrics=(group,)))
    assert before == {name: (later.folder.path / name).stat().st_mtime_ns for name in before}, "trained again"
    one, two = at_once.folder.evaluation(), later.folder.evaluation()
    assert json.dumps(one["metrics"], sort_keys=True) == json.dumps(two["metrics"], sort_keys=True)
    assert two["seconds"] == base["seconds"], "the basic metrics were measured again"
    files = [pd.read_parquet(cell.folder.path / "examples.parquet") for cell in (at_once, later)]
    pd.testing.assert_frame_equal(*files, check_like=True)


def test_what_is_missing_of_an_evaluation():
    assert EVERY.missing(None) == ("basic", *GROUPS)
    about = {"config": EVERY.base, "version": EVALUATION_VERSION}
    whole = about | {"groups": {name: {"settings": EVERY.group(name)} for name in GROUPS}}
    assert EVERY.missing(whole) == ()
    assert replace(EVERY, refined_iw_steps=7).missing(whole) == ("refined_iw",)
    assert EVERY.missing(about) == GROUPS
    assert replace(EVERY, iw_samples=7).missing(whole)[0] == "basic"
    assert EVERY.missing(whole | {"version": 1})[0] == "basic", "what is measured has changed since"


def test_a_group_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'metrics' are some of common"):
        EvaluationConfig(metrics=("comon",))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_examples_at_places_are_those_of_the_set(kind, prepared, text_prepared):
    data = load(prepared, MODEL) if kind == "image" else load(text_prepared, TEXT_MODEL)
    chosen = np.array([3, 4, 9, 17, 22, 23, 28])
    places, blocks = data.blocks("test", chosen, 3)
    assert sorted(places) == list(chosen) and [len(block) for block in blocks] == [3, 3, 1]
    rows = [row for block in blocks for row in block]
    for place, row in zip(places, rows, strict=True):
        expected = data.test[int(place)][: len(row)] if kind == "text" else data.test[int(place)]
        assert torch.equal(row, expected.to(row.dtype))


def test_labels_that_the_code_holds_are_read_from_it(labelled, tmp_path):
    from tests.conftest import TOY, TRAIN, planner, tasks

    cell = planner(labelled, TOY, tmp_path)("vae", train=replace(TRAIN, epochs=10, epoch_updates=80))
    metrics = run(cell, tasks(labelled), replace(EVERY, metrics=("probe",)))["metrics"]
    assert metrics["probe"] > 0.9 > metrics["probe_chance"]
    assert "probe_100" not in metrics  # only 30 examples are encoded


def test_weights_that_are_gone_are_said_to_be(planned, task):
    cell = planned("vae")
    run(cell, task, replace(EVALUATION, metrics=()))
    (cell.folder.path / "best.pt").unlink()
    run_cell(task(cell))
    failure = cell.folder.result()["evaluation_failure"]
    assert failure["reason"].startswith(UserError.__name__) and "weights" in failure["reason"]
