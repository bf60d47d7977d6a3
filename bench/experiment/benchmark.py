"""Speed and memory of a method's updates and evaluation, through the trainer of a run, on random data."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core.config import suggest
from bench.core.errors import UserError
from bench.data.cache import cached
from bench.data.dataset import SPECIALS, DataInfo, Modality, Prepared
from bench.data.tensors import apply_model_config
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.metrics import EvaluationContext, compute_metrics, validate
from bench.experiment.factory import build_from_config, load_data
from bench.experiment.presets import Preset, load_preset
from bench.experiment.runtime_estimate import random_batch
from bench.experiment.schema import CellConfig
from bench.models.precision import autocast, tf32
from bench.training.torch_setup import configure_torch
from bench.training.trainer import Trainer

TRAIN_BATCHES = 8
MAX_ENCODER_UPDATES = 3  # per step: enough to time one, and no step takes minutes
MIN_UPDATES = 3  # timed updates of each kind, after one that warms up
EVALUATED = 10  # test examples, with as many samples each
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # rows of the square matrices whose product gives the peak
#: Name -> modality, section of the preset, example shape and vocabulary: the sizes of the paper's data sets.
SIZES: dict[str, tuple[Modality, str, tuple[int, ...], int]] = {
    "image": ("image", "", (28, 28), 0),
    "text": ("text", "", (82,), 20_001),
    "synthetic": ("text", "synthetic", (12,), 904),
}


@dataclass(frozen=True)
class ModelSize:
    """A model with its training protocol, and the shape of the random data for it."""

    name: str  # SIZE:PRESET
    preset: Preset
    modality: Modality
    shape: tuple[int, ...]  # of an example, before the model's own cuts
    vocabulary: int  # of text

    def prepared(self, cache: Path) -> Prepared:
        """Return a random data set: some training batches, one batch to validate and one to test."""
        return cached(cache, self.name.replace(":", "-"), self._arrays)

    def _arrays(self) -> tuple[DataInfo, dict[str, np.ndarray]]:
        batch = self.preset.train.batch_size
        counts = {"train": TRAIN_BATCHES * batch, "val": batch, "test": max(batch, EVALUATED)}
        info = DataInfo(self.name, self.name, self.modality, "nats", self.shape, counts, "", "random")
        info = apply_model_config(replace(info, vocabulary=self.vocabulary), self.preset.model)
        torch.manual_seed(0)
        arrays = {split: random_batch(self.preset.model, info, count).numpy() for split, count in counts.items()}
        if self.modality == "image":
            return info, {split: images.squeeze(1) for split, images in arrays.items()}
        words = np.array([*SPECIALS, *map(str, range(len(SPECIALS), info.vocabulary))])
        return info, {split: rows.astype(np.int32) for split, rows in arrays.items()} | {"vocabulary": words}


def parse_size(text: str) -> ModelSize:
    """Return the model size ``SIZE:PRESET``, such as ``image:quick``."""
    name, _, preset = text.partition(":")
    if name not in SIZES:
        raise UserError(f"--models {text}: unknown model '{name}': {suggest(name, SIZES)}")
    if not preset:
        raise UserError(f"--models {text}: add a preset, such as {name}:quick")
    modality, section, shape, vocabulary = SIZES[name]
    return ModelSize(text, load_preset(preset, modality, protocol=section), modality, shape, vocabulary)


@dataclass(frozen=True)
class Measurement:
    """Speed of one kind of update, and of the method's evaluation."""

    update: str  # parameter groups that the update steps
    updates_timed: int
    seconds_per_update: float  # median
    gflop_per_update: float
    peak_memory_mb: float  # up to the end of training
    evaluated_per_second: float  # test examples, basic metrics with ``EVALUATED`` samples each
    batch_size: int
    parameters: int


def measure(config: CellConfig, data_path: Path, threads: int, seconds: float) -> list[Measurement]:
    """Measure every kind of update, from ``seconds`` of training in each phase, and the evaluation."""
    configure_torch(threads, config.device, 0)
    method, model, seed = build_from_config(config)
    data = load_data(config, data_path)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(method, model, data, config.train, seed, Path(folder), validate, lambda history: None)
        updates = _time_updates(trainer, seconds)
    memory, evaluated = _peak_memory(config.device) / 1e6, EVALUATED / _time_evaluation(trainer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return [
        Measurement(
            update=kind.removeprefix("main: "),
            updates_timed=len(times),
            seconds_per_update=statistics.median(times),
            gflop_per_update=trainer.ctx.flops_by_kind[kind] / 1e9,
            peak_memory_mb=memory,
            evaluated_per_second=evaluated,
            batch_size=config.train.batch_size,
            parameters=parameters,
        )
        for kind, times in updates.items()
    ]


def peak_flops(device: str, threads: int, precision: str) -> float:
    """Return the floating-point operations per second of the product of two large matrices, the best of 20."""
    configure_torch(threads, device, 0)
    size = PEAK_SIZE[device]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    with tf32() if precision == "tf32" else nullcontext():
        return 2 * size**3 / min(_seconds(lambda: a @ b, device) for _ in range(20))


def _time_updates(trainer: Trainer, at_least: float) -> dict[str, list[float]]:
    """Return the seconds of every update by kind, without the first of each kind, in which operations are counted."""
    ctx, update, encoder_updates = trainer.ctx, trainer.ctx.update, 0
    times: dict[str, list[float]] = {}

    def timed(objective: Callable[[], Tensor], groups: Sequence[str] | None = None) -> Tensor:
        before, losses = dict(ctx.updates_by_kind), []
        spent = _seconds(lambda: losses.append(update(objective, groups)), ctx.device.type)
        (kind,) = (kind for kind, count in ctx.updates_by_kind.items() if count != before.get(kind))
        times.setdefault(kind, []).append(spent)
        return losses[0]

    def encoder_updates_left() -> int:
        return MAX_ENCODER_UPDATES - (ctx.encoder_updates - encoder_updates)

    ctx.update, ctx.encoder_updates_left = timed, encoder_updates_left  # type: ignore[method-assign]
    trainer.model.train()
    for phase in range(len(trainer.phases)):
        trainer.start_phase(phase)
        before, started = {*times}, time.perf_counter()
        while time.perf_counter() - started < at_least or any(
            len(times[kind]) <= MIN_UPDATES for kind in times.keys() - before
        ):
            encoder_updates = ctx.encoder_updates
            ctx.reseed_streams("outside updates", ctx.step)
            trainer.method.step(ctx, ctx.next_main_batch())
            ctx.step += 1
            trainer.method.on_step_end(ctx)
    return {kind: seconds[1:] for kind, seconds in times.items()}


def _time_evaluation(trainer: Trainer, at_least: float = 0.5) -> float:
    """Return the median seconds of the basic metrics on ``EVALUATED`` test examples, without the first time."""
    model, data = trainer.model, trainer.data
    ctx = EvaluationContext(model, data.info, trainer.config, trainer.seed)
    _, blocks = data.blocks("test", EVALUATED, EVALUATED)
    chunk = auto_chunk_size(model.eval(), blocks)
    times: list[float] = []
    with autocast(model, trainer.config.precision, frozen=True):
        while len(times) < 2 or sum(times[1:]) < at_least:
            work = lambda: compute_metrics(trainer.method, ctx, blocks, EVALUATED, chunk)  # noqa: E731
            times.append(_seconds(work, ctx.device.type))
    return statistics.median(times[1:])


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the wall-clock seconds until the device has finished ``work``."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def _peak_memory(device: str) -> int:
    """Return the peak in bytes: of tensors on a GPU, otherwise of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
