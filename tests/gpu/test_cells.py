"""Cells on a GPU: metrics of the CPU, repeatable and resumed bit for bit, killed, and two on one device."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import bench
from bench.core.host import run_in_subprocess
from bench.evaluation.evaluator import evaluate
from bench.evaluation.registry import metric_groups
from bench.experiment.cell_folder import CellFolder
from bench.experiment.plan import PlannedCell
from bench.experiment.task import CellTask, Resources
from bench.experiment.worker import run_cell
from bench.training.context import TrainingContext
from bench.training.torch_setup import training_settings
from tests.conftest import EVALUATION, assert_equal_weights, tasks
from tests.experiment.outcomes import assert_same_outcome
from tests.gpu.conftest import DEVICE, Toys, host_randomness, needs_cuda
from tests.methods.test_contract import STATEFUL, quick, run_killed, without_seconds

pytestmark = pytest.mark.gpu
MODALITIES = ["image", "text"]
#: Of metrics on a GPU and a CPU. Refined proposals are results of a few steps of Adam, whose first are as long for a
#: gradient that is rounding noise as for any other: a change of the weights by 3e-7 moves them as much.
REFINED = {"ess_refined": 0.1, "pareto_k_refined": 0.3, "nll_se": 0.2, "gap_inference": 0.2, "gap_approximation": 0.05}
TOLERANCES = dict.fromkeys(("iw_nll", "elbo", "rec", "kl", "mi"), 1e-4) | REFINED
KILLED_AT = 7  # of twelve updates, in the second epoch
SIZES = {"ais_examples": 1, "ais_chains": 2, "ais_steps": 4, "convergence_examples": 2, "refined_iw_examples": 2}
ALL_METRICS = EVALUATION.with_overrides({"metrics": tuple(metric_groups()), **SIZES})


def task(toys: Toys, cell: PlannedCell, modality: str, gpus: float = 1.0) -> CellTask:
    resources = Resources("local", gpus_per_cell=gpus if DEVICE == "cuda" else 0.0)
    return tasks(toys.sets[modality][0])(cell, resources=resources)


def finished(folder: CellFolder) -> CellFolder:
    """Return the folder of a cell without any failure."""
    result = folder.result()
    assert result.status == "ok", result.traceback
    assert not result.failure, result.evaluation_failure.traceback
    return folder


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_cell_is_loaded_on_either_device(modality, toys, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(toys.sets[modality][0].path.parent))
    cell = toys.cell("vae", modality, DEVICE, "cell")
    run_cell(task(toys, cell, modality))
    folder = finished(cell.folder)
    if DEVICE == "cuda":
        assert folder.result().provenance.machine.gpu == torch.cuda.get_device_name()
    loaded, on_cpu = (bench.load(folder.path, device=device) for device in (DEVICE, "cpu"))
    x = on_cpu.data.test[:3] if modality == "image" else on_cpu.data.sentences(on_cpu.data.test[:3])
    q = loaded.encode(x)
    assert q.mean.device.type == DEVICE
    torch.testing.assert_close(q.mean.cpu(), on_cpu.encode(x).mean, rtol=1e-4, atol=1e-5)
    assert len(loaded.sample(3)) == len(loaded.decode(q.mean.cpu())) == len(loaded.iw_nll(x, samples=5)) == 3


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", ["vae", "sa_vae", "iaf_posterior"])
def test_metrics_match_the_cpu(name, modality, toys, monkeypatch):
    """All metric groups of the same weights; a chunk of the same size for both."""
    monkeypatch.setattr("bench.evaluation.chunking.BUDGET", {"cpu": 2**24, "cuda": 2**24})
    on_cpu, on_device = (toys.trainer(quick(name), modality, device, f"on-{device}") for device in ("cpu", DEVICE))
    on_cpu.run()
    on_device.model.load_state_dict(on_cpu.model.state_dict())
    with host_randomness():
        expected, values = (
            evaluate(run.method, run.model, run.data, run.config, ALL_METRICS, run.seed).record.metrics
            for run in (on_cpu, on_device)
        )
    for key, value in expected.items():
        tolerance = TOLERANCES.get(key, 2e-2)
        assert values[key] == (value if value is None else pytest.approx(value, rel=tolerance, abs=tolerance)), key


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", STATEFUL)
def test_resumes_bit_for_bit(name, modality, toys, monkeypatch):
    """Two uninterrupted runs are equal, and equal to one that was killed and continued from its checkpoint."""
    one, again, killed = (toys.trainer(quick(name), modality, DEVICE, folder) for folder in ("one", "again", "killed"))
    expected = one.run()
    again.run()
    assert_equal_weights(again.model.state_dict(), one.model.state_dict())
    run_killed(killed, KILLED_AT, monkeypatch)
    resumed = toys.trainer(quick(name), modality, DEVICE, "killed")
    result = resumed.run()
    assert result.resumes == 1 and (result.updates, result.flops) == (expected.updates, expected.flops)
    assert_equal_weights(resumed.model.state_dict(), one.model.state_dict())
    assert list(map(without_seconds, resumed.history)) == list(map(without_seconds, one.history))


def kill_at(task: CellTask, step: int) -> None:
    """Run a cell with a checkpoint after every update; end this process by SIGKILL before update ``step``."""
    import bench.training.trainer

    bench.training.trainer.CHECKPOINT_SECONDS = 0
    update = TrainingContext.update

    def killed_update(self, *args, **options):
        if self.step >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *args, **options)

    TrainingContext.update = killed_update
    run_cell(task)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_killed_process_loses_no_bit(modality, toys):
    uninterrupted, killed = (toys.cell("vae", modality, DEVICE, name) for name in ("uninterrupted", "killed"))
    run_cell(task(toys, uninterrupted, modality))
    with pytest.raises(RuntimeError, match="status -9"):
        run_in_subprocess(kill_at, task(toys, killed, modality), KILLED_AT)
    assert not killed.folder.is_trained() and (killed.folder.path / "last.pt").exists()
    run_cell(task(toys, killed, modality))
    assert killed.folder.result().training.resumes == 1
    assert_same_outcome(finished(killed.folder), finished(uninterrupted.folder))


def test_two_cells_share_a_device(toys):
    """With half of a GPU's memory each, at the same time: the numbers of a cell alone."""
    cells = [toys.cell(name, "image", DEVICE, "shared") for name in ("vae", "beta_vae")]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run_in_subprocess, run_cell, task(toys, cell, "image", 0.5)) for cell in cells]:
            done.result()
    for cell, name in zip(cells, ("vae", "beta_vae"), strict=True):
        alone = toys.cell(name, "image", DEVICE, "alone")
        run_cell(task(toys, alone, "image"))
        assert_same_outcome(finished(cell.folder), finished(alone.folder))


def allocate(share: float, size: int) -> None:
    """Allocate ``size`` bytes in a process that has a share of the GPU."""
    with training_settings(1, DEVICE, share):
        torch.empty(size, dtype=torch.uint8, device=DEVICE)


@needs_cuda
def test_a_share_of_the_gpu_limits_its_memory():
    half = torch.cuda.get_device_properties(0).total_memory // 2
    with pytest.raises(torch.OutOfMemoryError):
        run_in_subprocess(allocate, 0.25, half)
    run_in_subprocess(allocate, 0.75, half)
