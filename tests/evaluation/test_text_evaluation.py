"""Evaluation of text cells: order of examples, decoded sentences."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bench.data.tensors import load
from bench.evaluation.evaluator import evaluate
from bench.evaluation.metrics import EvaluationContext
from bench.evaluation.samples import text_samples
from bench.experiment.factory import build_from_config, load_trained
from bench.experiment.stored_evaluation import load_evaluation, store_evaluation
from bench.experiment.trained_cell import TrainedCell
from bench.experiment.worker import run_cell
from bench.reporting.report import build
from tests.conftest import EVALUATION, TEXT_MODEL, TEXT_TRAIN


def test_examples_are_stored_in_the_order_of_the_set(text_prepared, text_planned, text_task):
    cell = text_planned("vae")
    run_cell(text_task(cell))
    metrics = cell.folder.evaluation().metrics
    assert metrics["ppl"] == pytest.approx(math.exp(metrics["iw_nll"] / metrics["words"])) and "bpd" not in metrics
    assert pd.read_parquet(cell.folder.path / "examples.parquet")["index"].tolist() == list(range(20))
    _, model, _ = load_trained(cell.folder, cell.config)
    x = load(text_prepared, TEXT_MODEL).test[:20].long()
    with np.load(cell.folder.path / "arrays.npz") as arrays, torch.no_grad():
        assert arrays["true_means"].shape == (20, 2)
        torch.testing.assert_close(model.eval().encode(x).mean, torch.from_numpy(arrays["means"]))


def test_diverged_model_is_evaluated_once(text_prepared, text_planned):
    """Its perplexity overflows."""
    cell = text_planned("vae")
    method, model, seed = build_from_config(cell.config)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(1e6)
    cell.folder.write_config(cell.config)
    evaluation = evaluate(method, model, load(text_prepared, TEXT_MODEL), TEXT_TRAIN, EVALUATION, seed)
    store_evaluation(cell.folder, evaluation)
    stored = load_evaluation(cell.folder)
    assert stored.record == evaluation.record and not EVALUATION.missing(stored.record)
    assert stored.record.metrics["iw_nll"] > 1e4 and stored.record.metrics["ppl"] is None
    assert "ppl" in stored.record.not_finite


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("modality", ["text", pytest.param("image", marks=pytest.mark.slow)])
def test_evaluation_of_one_example(modality, request, no_figures):
    prefix = "text_" if modality == "text" else ""
    planned, task = (request.getfixturevalue(f"{prefix}{name}") for name in ("planned", "task"))
    cell, config = planned("vae"), EVALUATION.with_overrides({"test_examples": 1})
    run_cell(task(cell, evaluation=config))
    record = cell.folder.evaluation()
    assert not config.missing(record) and cell.folder.result().failure is None
    undefined = {"mi", "mi_loo", "mi_high", "mi_batch", "au", "au_ratio", "shuffle_gap", "iw_nll_se", "nll_se"}
    assert {name for name in undefined if record.metrics[name] is None} == undefined <= {*record.not_finite}
    assert all(math.isfinite(record.metrics[name]) for name in ("iw_nll", "kl", "au_kl", "nll", "gap_inference"))
    [table] = build(cell.folder.path.parents[4])
    assert "undefined for one test example" in table.text and "nan" not in table.text.split()
    trained = TrainedCell.read(cell.folder.path)
    assert len(trained.examples) == 1 and trained.metrics["mi"] is None


def test_interpolations_end_at_the_reconstructions(text_trainer, tmp_path):
    run = text_trainer("vae", tmp_path)
    _, (x,) = run.data.blocks("test", 4, 4)
    run.model.eval()
    texts = text_samples(run.method, EvaluationContext(run.model, run.data.info, TEXT_TRAIN, 0), run.data, x)
    assert len(texts.samples) == len(texts.reconstructions) == 4 and len(texts.interpolations) == 2
    for pair, line in enumerate(texts.interpolations):
        first, second = texts.reconstructions[2 * pair : 2 * pair + 2]
        assert (line.start, line.end) == (first.original, second.original)
        assert line.steps[0].greedy == first.greedy and line.steps[-1].beam == second.beam
