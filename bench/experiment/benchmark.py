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
from torch.utils.benchmark import Timer

from bench.core.errors import UserError
from bench.data.cache import cached
from bench.data.dataset import END, SPECIALS, START, DataInfo, Modality, Prepared
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.experiment.factory import build_from_config, load_data
from bench.experiment.presets import Preset, load_preset
from bench.experiment.schema import CellConfig
from bench.models.precision import autocast, tf32
from bench.training.torch_setup import training_settings
from bench.training.trainer import Trainer

TRAIN_BATCHES = 8
MIN_STEPS = 4  # of every phase; the first update of each kind is not counted
MAX_INNER = 3  # updates of an inner loop: enough to time one, and no step takes minutes
EVALUATED = 10  # test examples, with as many samples each
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # rows of the square matrices whose product gives the peak
#: Name -> modality, section of the preset, example shape and vocabulary: the sizes of the paper's data sets.
SIZES: dict[str, tuple[Modality, str, tuple[int, ...], int]] = {
    "image": ("image", "", (28, 28), 0),
    "text": ("text", "", (82,), 20_001),
    "synthetic": ("text", "synthetic", (12,), 904),
}


def random_data(size: str, folder: Path) -> tuple[Preset, Prepared]:
    """Return the preset of ``SIZE:PRESET``, such as ``image:quick``, and a small random data set in ``folder``."""
    name, _, preset_name = size.partition(":")
    if name not in SIZES or not preset_name:
        raise UserError(f"--models {size}: write SIZE:PRESET, such as image:quick; sizes: {', '.join(SIZES)}")
    modality, protocol, shape, vocabulary = SIZES[name]
    preset = load_preset(preset_name, modality, protocol=protocol)
    batch = preset.train.batch_size
    counts = {"train": TRAIN_BATCHES * batch, "val": batch, "test": max(batch, EVALUATED)}

    def generate() -> tuple[DataInfo, dict[str, np.ndarray]]:
        random, info = np.random.default_rng(0), DataInfo(size, size, modality, "nats", shape, vocabulary=vocabulary)
        if modality != "text":
            return info, {split: random.random((count, *shape), np.float32) for split, count in counts.items()}
        words = [*SPECIALS, *map(str, range(len(SPECIALS), vocabulary))]
        arrays = {"vocabulary": np.array(words)}
        for split, count in counts.items():
            arrays[split] = random.integers(len(SPECIALS), vocabulary, (count, *shape), np.int32)
            arrays[split][:, 0], arrays[split][:, -1] = START, END
        return info, arrays

    return preset, cached(folder, size.replace(":", "-"), generate)


@dataclass(frozen=True)
class Measurement:
    """Speed of one kind of update, and of the method's evaluation."""

    update: str  # parameter groups that the update steps
    ms_per_update: float  # median
    gflop_per_update: float
    memory_mb: float  # peak up to the end of training
    evaluated_per_second: float  # test examples, basic metrics with ``EVALUATED`` samples each


def measure(config: CellConfig, data_path: Path, threads: int, seconds: float) -> list[Measurement]:
    """Measure every kind of update, from ``seconds`` of training in each phase, and the evaluation."""
    with training_settings(threads, config.device, 0), tempfile.TemporaryDirectory() as folder:
        if config.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # of what this process did before
        method, model, seed = build_from_config(config)
        if hasattr(method.config, "max_inner"):
            method.config = replace(method.config, max_inner=MAX_INNER)
        data = load_data(config, data_path)
        trainer = Trainer(method, model, data, config.scaled_train, seed, Path(folder), lambda *_: {}, lambda *_: None)
        updates = _time_updates(trainer, seconds)
        memory, evaluated = _peak_memory(config.device), _evaluated_per_second(trainer)
    flops = trainer.ctx.flops_by_kind
    return [
        Measurement(kind.removeprefix("main: "), 1e3 * median, flops[kind] / 1e9, memory / 1e6, evaluated)
        for kind, median in updates.items()
    ]


def peak_flops(device: str, threads: int, precision: str) -> float:
    """Return the floating-point operations per second of the product of two large matrices."""
    size = PEAK_SIZE[device]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    with training_settings(threads, device, 0), tf32() if precision == "tf32" else nullcontext():
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        return 2 * size**3 / _median_seconds(lambda: a @ b)


def _time_updates(trainer: Trainer, at_least: float) -> dict[str, float]:
    """Return the median seconds of each kind of update, without the first one, in which operations are counted."""
    ctx, update, clock = trainer.ctx, trainer.ctx.update, trainer.ctx.clock
    times: dict[str, list[float]] = {}

    def timed(objective: Callable[[], Tensor], groups: Sequence[str] | None = None) -> Tensor:
        clock.to("train")  # waits for the device
        before = clock.seconds["train"]
        loss = update(objective, groups)
        clock.to("train")
        kind = f"{ctx.phase.name}: {'+'.join(ctx.optimisers if groups is None else groups)}"
        times.setdefault(kind, []).append(clock.seconds["train"] - before)
        return loss

    ctx.update = timed  # type: ignore[method-assign]
    trainer.model.train()
    for phase in range(len(trainer.phases)):
        trainer.start_phase(phase)
        started, first_step = time.perf_counter(), ctx.step
        while ctx.step < first_step + MIN_STEPS or time.perf_counter() - started < at_least:
            ctx.reseed_streams("outside updates", ctx.step)
            trainer.method.step(ctx, ctx.next_main_batch())
            ctx.step += 1
            trainer.method.on_step_end(ctx)
    return {kind: statistics.median(seconds[1:] or seconds) for kind, seconds in times.items()}


def _evaluated_per_second(trainer: Trainer) -> float:
    """Return the test examples per second of the basic metrics."""
    model, data = trainer.model, trainer.data
    ctx = EvaluationContext(model, data.info, trainer.config, trainer.seed)
    _, blocks = data.blocks("test", EVALUATED, EVALUATED)
    chunk = auto_chunk_size(model.eval(), blocks)
    with autocast(model, trainer.config.precision, frozen=True):
        return EVALUATED / _median_seconds(lambda: compute_metrics(trainer.method, ctx, blocks, EVALUATED, chunk))


def _median_seconds(work: Callable[[], object]) -> float:
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.5).median


def _peak_memory(device: str) -> int:
    """Return the peak in bytes: of tensors on a GPU, otherwise of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
