"""Every method on a GPU against the CPU, from the same weights, batches and random numbers."""

import math

import pytest
import torch
from torch import Tensor

from bench.training import registry
from bench.training.trainer import Trainer
from tests.gpu.conftest import DEVICE, host_randomness, relative_distance
from tests.methods.test_contract import quick

pytestmark = pytest.mark.gpu
CASES = [(name, modality) for name in registry.method_names() for modality in registry.method(name).modalities]


def flat(run: Trainer) -> Tensor:
    """Return all parameters as one vector on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in run.model.parameters()])


def train(run: Trainer) -> list[float]:
    """Train without dropout; return the loss of every update."""
    losses, step = [], run.method.step

    def recorded(ctx, x):
        losses.append(step(ctx, x))
        return losses[-1]

    run.method.step = recorded
    for module in run.model.modules():  # its masks are drawn in another way on a GPU
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    run.run()
    return torch.stack(losses).tolist()


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_an_epoch_matches_the_cpu(name, modality, toys):
    """Rounding differences grow during training: those of four updates are small.

    Two sets of CPU kernels differ by at most 7e-7 in a loss, 3e-6 in a metric, and 0.014 in the path of the weights:
    Adam gives weights whose gradient is rounding noise, such as a bias before BatchNorm, steps of full size.
    """
    on_cpu, on_device = (
        toys.trainer(quick(name), modality, device, folder, epochs=1)
        for device, folder in (("cpu", "cpu"), (DEVICE, "device"))
    )
    initial = flat(on_cpu)
    assert torch.equal(flat(on_device), initial)
    expected = train(on_cpu)
    with host_randomness():
        losses = train(on_device)
    assert losses[:3] == pytest.approx(expected[:3], rel=1e-5)
    assert relative_distance(flat(on_device) - initial, flat(on_cpu) - initial) < 0.1
    (validation,), (expected_validation,) = on_device.history, on_cpu.history
    metrics, expected_metrics = (
        {key: math.nan if value is None else value for key, value in line.metrics.items()}
        for line in (validation, expected_validation)
    )
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-4, nan_ok=True)
