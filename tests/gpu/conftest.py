"""The device under test, and random numbers that do not depend on it.

Without a GPU these tests are skipped. ``BENCH_GPU_TEST_DEVICE=cpu`` runs the same code on the CPU instead. Tests that
have not started after ``BENCH_GPU_TEST_SECONDS`` are skipped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data.dataset import Prepared
from bench.experiment.plan import PlannedCell
from bench.experiment.presets import Preset
from bench.training.torch_setup import torch_settings
from bench.training.trainer import Trainer
from tests.conftest import TEXT_TOY, TOY, VECTOR_TOY, planner, trainers

DEVICE = os.environ.get("BENCH_GPU_TEST_DEVICE", "cuda")
DEADLINE = time.monotonic() + float(os.environ.get("BENCH_GPU_TEST_SECONDS", math.inf))
RANDOM = {torch.ops.aten.rand, torch.ops.aten.randn, torch.ops.aten.randint, torch.ops.aten.randperm}

needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="has no meaning on a CPU")


@pytest.fixture(autouse=True)
def settings_of_a_cell() -> Iterator[None]:
    """Set torch's state to that of a cell: on a GPU, float32 without TF32."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if time.monotonic() > DEADLINE:
        pytest.skip("no time left")
    with torch_settings(DEVICE, threads=1):
        yield


class _HostGenerator(torch.Generator):
    """A generator of the CPU, for whatever device it is asked."""

    def __new__(cls, device: Any = None) -> torch.Generator:
        return super().__new__(cls, "cpu")


class _HostRandomness(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func.overloadpacket is torch.ops.aten.multinomial:
            probabilities, *others = args
            return func(probabilities.cpu(), *others, **kwargs).to(probabilities.device)
        if func.overloadpacket not in RANDOM:
            return func(*args, **kwargs)
        device = kwargs.pop("device", None) or "cpu"
        return func(*args, **kwargs, device="cpu").to(device)


@contextmanager
def host_randomness() -> Iterator[None]:
    """Draw all random numbers on the CPU, so that a GPU computes with those of a CPU."""
    with pytest.MonkeyPatch.context() as patch, _HostRandomness():
        patch.setattr(torch, "Generator", _HostGenerator)
        yield


@dataclass
class Toys:
    """Toy cells of every modality on any device."""

    sets: dict[str, tuple[Prepared, Preset]]
    folder: Path

    def preset(self, modality: str, **train: Any) -> Preset:
        preset = self.sets[modality][1]
        return replace(preset, train=replace(preset.train, **train))

    def trainer(self, expression: str, modality: str, device: str, name: str | None = None, **train: Any) -> Trainer:
        """Return a trainer in the folder ``name``; the same name continues the training there."""
        folder, preset = self.folder / (name or device), self.preset(modality, **train)
        plan = planner(self.sets[modality][0], preset, folder, device)
        return trainers(plan, self.sets[modality][0], preset)(expression, folder, preset.train)

    def cell(self, expression: str, modality: str, device: str, name: str, **train: Any) -> PlannedCell:
        """Return the cell in the folder ``name``."""
        preset = self.preset(modality, **train)
        return planner(self.sets[modality][0], preset, self.folder / name, device)(expression)


@pytest.fixture
def toys(toy_data: dict[str, Prepared], tmp_path: Path) -> Toys:
    presets = {"image": TOY, "text": TEXT_TOY, "vector": VECTOR_TOY}
    return Toys({modality: (data, presets[modality]) for modality, data in toy_data.items()}, tmp_path)


def relative_distance(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ‖value − expected‖ / ‖expected‖, in float64 on the CPU."""
    value, expected = (tensor.detach().double().cpu() for tensor in (value, expected))
    return float((value - expected).norm() / expected.norm().clamp_min(1e-30))
