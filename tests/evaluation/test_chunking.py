"""How much is decoded at a time: memory is counted as it is taken, and a budget holds."""

import time
from dataclasses import replace

import pytest
import torch

from bench.core.config import TrainConfig
from bench.core.hashing import derive_seed
from bench.evaluation import chunking as memory
from bench.evaluation.chunking import PeakMemory, auto_chunk_size
from bench.evaluation.metrics import EvaluationContext, chunked_log_prob, compute_metrics
from bench.method import Method
from bench.models.image import build_image_model
from bench.models.text import build_text_model
from bench.models.vae import VAE
from tests.conftest import EVALUATION, MODEL, TEXT_MODEL


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
    chunk = auto_chunk_size(model, blocks)
    assert chunk > memory.PROBE_PAIRS and torch.equal(torch.get_rng_state(), before)
    with PeakMemory() as counted, torch.no_grad():
        chunked_log_prob(model, blocks[-1], torch.zeros(5, 2 * chunk, model.latent_dim), chunk)
    assert 2**19 < counted.peak < 1.2 * 2**20  # the results of chunks are held until the last one is there
    monkeypatch.setitem(memory.BUDGET, "cpu", 2**19)
    assert auto_chunk_size(model, blocks) == pytest.approx(chunk / 2, abs=1)
    monkeypatch.setitem(memory.BUDGET, "cpu", 1)
    assert auto_chunk_size(model, blocks) == 1


def test_an_evaluation_keeps_no_graph(data):
    model = build_image_model(MODEL).eval()
    ctx = EvaluationContext(model, data.info, TrainConfig(), derive_seed(0))
    with PeakMemory() as one:
        compute_metrics(Method(), ctx, data.test[:10].split(10), samples=8, chunk=80)
    with PeakMemory() as four:
        compute_metrics(Method(), ctx, data.test[:10].split(10), samples=32, chunk=80)
    assert four.peak < 1.3 * one.peak


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=range(len(ERRORS)))
def test_want_of_memory_is_recognised_in_what_led_to_an_error(error):
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("of another kind") from cause
    except ValueError as other:
        assert memory.out_of_memory(other) and memory.out_of_memory(error)


def test_other_errors_are_no_want_of_memory():
    for error in (RuntimeError("shapes differ"), KeyError("memory"), OSError(28, "No space left on device")):
        assert not memory.out_of_memory(error)


def short_of_memory(monkeypatch, most, error):
    """No more than ``most`` pairs can be decoded at a time; the numbers that were tried."""
    tried, log_prob = [], VAE.log_prob

    def decode(model, x, z):
        tried.append(len(x) * z.shape[1])
        if tried[-1] > most:
            raise error
        return log_prob(model, x, z)

    monkeypatch.setattr(VAE, "log_prob", decode)
    return tried


@pytest.fixture
def trained(planned, task, monkeypatch):
    """A trained cell that is yet to be evaluated; ``evaluated()`` does, and tells of it."""
    from bench.experiment import worker as cells

    monkeypatch.setitem(memory.BUDGET, "cpu", 3 * 2**20)
    cell = planned("vae")
    task = task(cell, evaluation=(replace(EVALUATION, metrics=("refined_iw", "latent_use", "ais"), **FEW)))
    cell.folder.write_config(cell.config)
    cells.store_result(cell.folder, {"status": "ok", "attempt": 1} | cells.train(task))

    def evaluated():
        cells.run_cell(task | {"run": str(time.monotonic_ns())})
        return cell.folder

    return evaluated


FEW = {"refined_iw_steps": 10, "ais_examples": 1, "ais_chains": 3, "ais_steps": 4}


@pytest.mark.parametrize("error", ERRORS[:2], ids=["gpu", "cpu"])
def test_an_evaluation_short_of_memory_goes_on_with_less_and_finds_the_same(trained, error, monkeypatch):
    folder = trained()
    plenty = folder.evaluation()
    (folder.path / "evaluation.json").unlink()
    with monkeypatch.context() as patch:
        tried = short_of_memory(patch, 16, error)
        scarce = trained().evaluation()
    assert max(tried) > 16 and plenty["chunk"] > 16 >= scarce["chunk"] > 8
    assert {about["chunk"] for about in scarce["groups"].values()} == {scarce["chunk"]}
    assert scarce["metrics"].keys() == plenty["metrics"].keys()
    for name, value in plenty["metrics"].items():
        other = scarce["metrics"][name]
        assert other == (pytest.approx(value, rel=2e-4, abs=1e-5) if isinstance(value, float) else value), name


def test_an_evaluation_without_memory_for_a_single_sample_fails_with_advice(trained, monkeypatch):
    short_of_memory(monkeypatch, 0, ERRORS[1])
    said = trained().result()["evaluation_failure"]["reason"]
    assert "\n" not in said and "evaluation.batch_size" in said and "fewer cells side by side" in said


def test_a_share_of_the_budget_decodes_so_much_less(monkeypatch):
    model, blocks = build_image_model(MODEL).eval(), [torch.ones(5, 1, 7, 7)]
    whole = auto_chunk_size(model, blocks)
    assert auto_chunk_size(model, blocks, 0.25) == pytest.approx(whole / 4, rel=0.01)


def test_training_without_memory_fails_with_advice(planned, task, monkeypatch):
    from bench.experiment.worker import run_cell

    cell = planned("vae")
    short_of_memory(monkeypatch, 0, ERRORS[0])
    run_cell(task(cell))
    said = cell.folder.result()["reason"]
    assert said.startswith("OutOfMemoryError: CUDA out of memory") and "train.batch_size" in said
    assert "method 'vae'" in said


def test_all_of_an_evaluation_says_that_it_goes_on(trained, monkeypatch):
    """However long it takes, between two passes there is a sign, at which it can be stopped."""
    folder = trained()
    (folder.path / "evaluation.json").unlink()
    signs, decoded = [], []
    log_prob = type(build_image_model(MODEL).decoder).log_prob
    monkeypatch.setattr("bench.models.vae.pulse", lambda: signs.append(1))
    monkeypatch.setattr(
        type(build_image_model(MODEL).decoder),
        "log_prob",
        lambda *arguments: (decoded.append(1), log_prob(*arguments))[1],
    )
    trained()
    assert len(signs) == len(decoded) > 100
