import pytest
import torch

from bench.evaluation import chunking
from bench.evaluation.chunking import PeakMemory, auto_chunk_size, chunked_log_prob, out_of_memory
from bench.models.vae import VAE
from tests.conftest import EVALUATION, MODEL, TEXT_MODEL
from tests.fixtures.networks import build_image_model, build_text_model

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]


def test_peak_memory_counts_live_results():
    x = torch.zeros(1000)  # allocated outside: not counted
    with PeakMemory() as memory:
        y = x + 1
        y.add_(1)
        view = y[:10]
        z = (x + 2).sum() + y.sum()
        del y, view
        w = torch.stack([x, x, x])
    assert memory.peak == memory.held == 4 * 3000 + 4
    del w, z
    assert memory.held == 0


@pytest.mark.parametrize("modality", ["image", "text"])
def test_chunk_size_fits_the_budget(modality, monkeypatch):
    if modality == "image":
        model, blocks = build_image_model(MODEL), [torch.ones(5, 1, 7, 7)]
    else:
        model, blocks = build_text_model(TEXT_MODEL, 20, 11), [torch.full((5, 4), 6), torch.full((5, 9), 6)]
    model.eval()
    monkeypatch.setitem(chunking.BUDGET, "cpu", 2**20)
    chunk = auto_chunk_size(model, blocks)
    assert chunk > chunking.PROBE_PAIRS
    with PeakMemory() as memory, torch.no_grad():
        chunked_log_prob(model, blocks[-1], torch.zeros(5, 2 * chunk, model.latent_dim), chunk)
    assert 2**19 < memory.peak < 1.2 * 2**20
    monkeypatch.setitem(chunking.BUDGET, "cpu", 1)
    assert auto_chunk_size(model, blocks) == 1


def test_out_of_memory_is_recognised_as_a_cause(subtests):
    for error in ERRORS:
        with subtests.test(error=error):
            try:
                try:
                    raise error
                except Exception as cause:
                    raise ValueError("of another kind") from cause
            except ValueError as other:
                assert out_of_memory(other) and out_of_memory(error)


def test_other_errors_are_not_out_of_memory():
    for error in (RuntimeError("shapes differ"), KeyError("memory"), OSError(28, "No space left on device")):
        assert not out_of_memory(error)


def limit_memory(monkeypatch, most: int, error: Exception) -> list[int]:
    """Make decoding of more than ``most`` pairs fail; return a list that receives the numbers tried."""
    tried, log_prob = [], VAE.log_prob

    def decode(model, x, z):
        tried.append(len(x) * z.shape[1])
        if tried[-1] > most:
            raise error
        return log_prob(model, x, z)

    monkeypatch.setattr(VAE, "log_prob", decode)
    return tried


SMALL = {"test_examples": 6, "iw_samples": 10, "latent_use_examples": 3, "refined_iw_examples": 2}


def test_evaluation_halves_the_chunk_if_memory_runs_out(evaluation_of, monkeypatch):
    monkeypatch.setitem(chunking.BUDGET, "cpu", 3 * 2**20)
    config = EVALUATION.with_overrides({"metrics": ("refined_iw", "latent_use"), **SMALL})
    expected = evaluation_of("vae", config).record
    with monkeypatch.context() as patch:
        tried = limit_memory(patch, 16, ERRORS[0])
        record = evaluation_of("vae", config).record
    assert max(tried) > 16 and expected.chunk > 16 >= record.chunk > 8
    assert {group.chunk for group in record.groups.values()} == {record.chunk}
    assert record.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        if isinstance(value, float):
            value = pytest.approx(value, rel=1e-2 if name.startswith("pareto_k") else 2e-4, abs=1e-5)
        assert record.metrics[name] == value, name


def test_failure_for_lack_of_memory_has_advice(planned, task, monkeypatch):
    from bench.experiment.worker import run_cell

    cell = planned("vae")
    limit_memory(monkeypatch, 0, ERRORS[0])
    run_cell(task(cell))
    reason = cell.folder.result().failure
    assert reason.startswith("OutOfMemoryError: CUDA out of memory") and "train.batch_size" in reason
