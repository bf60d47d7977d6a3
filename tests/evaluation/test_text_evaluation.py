"""Evaluation of text cells: order of examples, decoded sentences."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bench.data.tensors import load
from bench.evaluation.metrics import EvaluationContext
from bench.evaluation.samples import text_samples
from bench.experiment.factory import load_trained
from bench.experiment.worker import run_cell
from tests.conftest import TEXT_MODEL, TEXT_TRAIN


def test_examples_are_stored_in_the_order_of_the_set(text_prepared, text_planned, text_task):
    cell = text_planned("vae")
    run_cell(text_task(cell))
    metrics = cell.folder.evaluation().metrics
    assert metrics["ppl"] == pytest.approx(math.exp(metrics["nll"] / metrics["words"])) and "bpd" not in metrics
    assert pd.read_parquet(cell.folder.path / "examples.parquet")["index"].tolist() == list(range(20))
    _, model, _ = load_trained(cell.folder, cell.config)
    x = load(text_prepared, TEXT_MODEL).test[:20].long()
    with np.load(cell.folder.path / "arrays.npz") as arrays, torch.no_grad():
        assert arrays["true_means"].shape == (20, 2)
        torch.testing.assert_close(model.eval().encode(x).mean, torch.from_numpy(arrays["means"]))


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
