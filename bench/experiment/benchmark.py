"""How long the updates and the evaluation of a method take in this process, through the trainer of a run."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from bench.data.dataset import Prepared
from bench.data.tensors import load
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.metrics import EvaluationContext, validate
from bench.evaluation.metrics import compute_metrics as measured
from bench.experiment.factory import build_from_config
from bench.models.precision import autocast, tf32
from bench.training.factory import configure_torch
from bench.training.trainer import Trainer

EXTRA = 3  # updates without the decoder that a step may make here: enough to time one, and no step takes minutes
LEAST = 3  # timed updates of each kind, after one that warms up
EVALUATED = 10  # examples, with so many samples each
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product tells the machine's peak


def peak_flops(device: str, threads: int, precision: str) -> float:
    """Operations per second of the product of two large matrices: the best of some."""
    configure_torch(threads, device, 0)
    size = PEAK_SIZE[device]
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32)
    with tf32() if precision == "tf32" else nullcontext():
        return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(20))


def measure(task: dict) -> list[dict]:
    """A row for each kind of update of a method at a model size."""
    config = task["config"]
    device = config.device
    configure_torch(task["threads"], device, 0)
    method, model, seed = build_from_config(config)
    train = config.train
    prepared = Prepared.read(Path(task["data"]))
    data = load(prepared, config.model).to(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(method, model, data, train, seed, Path(folder), validate, lambda history: None)
        updates = timed_updates(trainer, task["seconds"])
    peak = peak_memory(device)
    evaluated = EVALUATED / evaluation_seconds(trainer)
    rows = []
    for kind, times in updates.items():
        middle, flops = statistics.median(times), trainer.ctx.flops_by_kind[kind]
        rows.append(
            {
                "model": task["model"],
                "method": task["method"],
                "precision": train.precision,
                "update": kind.removeprefix("main: "),
                "updates_per_second": 1 / middle,
                "seconds_per_update": middle,
                "updates_timed": len(times),
                "gflop_per_update": flops / 1e9,
                "gflop_per_second": flops / 1e9 / middle,
                "peak_memory_mb": peak / 1e6,
                "evaluated_per_second": evaluated,
                "batch_size": train.batch_size,
                "parameters": sum(p.numel() for p in model.parameters()),
                "threads": task["threads"],
                "device": device,
            }
        )
    return rows


def timed_updates(trainer: Trainer, at_least: float) -> dict[str, list[float]]:
    """Seconds of every update by its kind, ``at_least`` so many of steps in each phase; the first of each kind, in
    which its operations are counted, left out."""
    ctx, update, at_start = trainer.ctx, trainer.ctx.update, 0
    found: dict[str, list[float]] = {}

    def timed(objective: Callable[[], Tensor], groups: Sequence[str] | None = None) -> Tensor:
        before, results = dict(ctx.updates_by_kind), []
        spent = seconds(lambda: results.append(update(objective, groups)), ctx.device.type)
        (kind,) = (kind for kind, count in ctx.updates_by_kind.items() if count != before.get(kind))
        found.setdefault(kind, []).append(spent)
        return results[0]

    ctx.update = timed  # type: ignore[method-assign]
    ctx.encoder_updates_left = lambda: EXTRA - (ctx.encoder_updates - at_start)  # type: ignore[method-assign]
    trainer.model.train()
    for phase in range(len(trainer.phases)):
        trainer.start_phase(phase)
        before, started = {*found}, time.perf_counter()
        while time.perf_counter() - started < at_least or any(
            len(found[kind]) <= LEAST for kind in found.keys() - before
        ):
            at_start = ctx.encoder_updates
            ctx.reseed_streams("outside updates", ctx.step)
            trainer.method.step(ctx, ctx.next_main_batch())
            ctx.step += 1
            trainer.method.on_step_end(ctx)
    return {kind: times[1:] for kind, times in found.items()}


def evaluation_seconds(trainer: Trainer, at_least: float = 0.5) -> float:
    """Of the basic metrics of ``EVALUATED`` test examples with so many samples each: the median of ``at_least`` so many
    seconds, the first time left out."""
    model, data = trainer.model, trainer.data
    ctx = EvaluationContext(model, data.info, trainer.config, trainer.seed)
    _, blocks = data.blocks("test", EVALUATED, EVALUATED)
    model.eval()
    chunk = auto_chunk_size(model, blocks)
    times: list[float] = []
    with autocast(model, trainer.config.precision, frozen=True):
        while len(times) < 2 or sum(times[1:]) < at_least:
            work = lambda: measured(trainer.method, ctx, blocks, EVALUATED, chunk)  # noqa: E731
            times.append(seconds(work, ctx.device.type))
    return statistics.median(times[1:])


def seconds(work: Callable[[], object], device: str) -> float:
    """Of wall-clock, until the device has done it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def peak_memory(device: str) -> int:
    """Bytes: of tensors on a GPU, else of this process with all that torch itself takes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
