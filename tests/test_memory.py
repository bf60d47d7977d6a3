"""How much is decoded at a time: memory is counted as it is taken, and a budget holds."""

import pytest
import torch

from bench.config import TrainConfig, derive_seed
from bench.evaluation import memory
from bench.evaluation.measure import EvaluationContext, decoded, measure
from bench.evaluation.memory import PeakMemory, chunk_for
from bench.method import Method
from bench.models.image import build_image_model
from bench.models.text import build_text_model

from .conftest import MODEL, TEXT_MODEL


def test_memory_is_counted_while_it_is_held():
    x = torch.zeros(1000)  # made outside: not counted
    with PeakMemory() as counted:
        y = x + 1
        y.add_(1)
        view = y[:10]
        z = (x + 2).sum() + y.sum()
        del y, view
        w = torch.stack([x, x, x])
    assert counted.peak == 4 * 3000 + 4  # at the stack: y is gone, z is left
    assert counted.held == 4 * 3000 + 4
    del w, z
    assert counted.held == 0


@pytest.mark.parametrize("modality", ["image", "text"])
def test_as_many_pairs_as_the_budget_allows(modality, monkeypatch):
    if modality == "image":
        model, blocks = build_image_model(MODEL), [torch.ones(5, 1, 7, 7)]
    else:
        model, blocks = build_text_model(TEXT_MODEL, 20, 11), [torch.full((5, 4), 6), torch.full((5, 9), 6)]
    model.eval()
    before = torch.get_rng_state()
    monkeypatch.setitem(memory.BUDGET, "cpu", 2**20)
    chunk = chunk_for(model, blocks)
    assert chunk > memory.PROBE and torch.equal(torch.get_rng_state(), before)
    with PeakMemory() as counted, torch.no_grad():
        decoded(model, blocks[-1], torch.zeros(5, 2 * chunk, model.latent_dim), chunk)
    assert 2**19 < counted.peak < 1.2 * 2**20  # the results of chunks are held until the last one is there
    monkeypatch.setitem(memory.BUDGET, "cpu", 2**19)
    assert chunk_for(model, blocks) == pytest.approx(chunk / 2, abs=1)
    monkeypatch.setitem(memory.BUDGET, "cpu", 1)
    assert chunk_for(model, blocks) == 1


def test_an_evaluation_keeps_no_graph(data):
    model = build_image_model(MODEL).eval()
    ctx = EvaluationContext(model, data.info, TrainConfig(), derive_seed(0))
    with PeakMemory() as one:
        measure(Method(), ctx, data.test[:10].split(10), samples=8, chunk=80)
    with PeakMemory() as four:
        measure(Method(), ctx, data.test[:10].split(10), samples=32, chunk=80)
    assert four.peak < 1.3 * one.peak
