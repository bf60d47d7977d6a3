"""Compare the speed of training and evaluation with a naive implementation.

    python -m benchmarks.compare_naive image yahoo synthetic --rounds 7

The naive implementation (``benchmarks/naive.py``) computes the same function in the style of the published code. Each
side has its own process, since ``bench`` tunes the allocator of a process, and one thread. They work in alternation on
the same batch. Prints a Markdown table: medians over rounds of CPU seconds, and of the speed-up within a round.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.data import tensors
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.metrics import log_weights
from bench.experiment.benchmark import random_data
from bench.methods.vae import BasicVAE
from bench.models.build import build_model
from bench.models.precision import autocast
from bench.models.vae import VAE
from bench.training.context import TrainingContext
from bench.training.torch_setup import training_settings
from benchmarks.naive import NaiveTraining, naive, naive_nll

#: Name -> model size, samples of each example in evaluation, samples that the naive evaluation takes at once.
MODELS = {"image": ("image:paper", 4, 4), "yahoo": ("text:paper", 4, 4), "synthetic": ("synthetic:paper", 100, 10)}
TASKS = ("update", "encoder update", "evaluation")
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # of log p(x|z), relative


@dataclass(frozen=True)
class Side:
    """What one process measures."""

    model: VAE
    tasks: dict[str, Callable[[], object]]
    log_prob: Callable[[], float]


side: Side  # of this worker process
settings = ExitStack()  # of torch, until the process ends


def setup(name: str, precision: str | None, folder: Path) -> None:
    """Prepare a worker process; ``precision`` None means the naive implementation, in float32."""
    global side
    size, samples, at_once = MODELS[name]
    if precision:
        settings.enter_context(training_settings(threads=1, device="cpu", gpu_share=0))
    torch.set_num_threads(1)
    preset, prepared = random_data(size, folder)
    data = tensors.load(prepared, preset.model)
    _, (x,) = data.blocks("val", preset.train.batch_size, preset.train.batch_size)
    torch.manual_seed(0)
    model = build_model(preset.model, data.info)
    z = torch.zeros(len(x), 1, model.latent_dim)
    if precision is None:
        model = naive(model)
        training = NaiveTraining(model, preset.train.optimiser, preset.train.lr)
        tasks: dict[str, Callable[[], object]] = {
            "update": lambda: training.update(x),
            "encoder update": lambda: training.update(x, ("encoder",)),
            "evaluation": lambda: naive_nll(model, x, samples, at_once),
        }
        side = Side(model, tasks, lambda: model.log_prob(x, z).mean().item())
        return
    method = BasicVAE()
    ctx = TrainingContext(method, model, data, replace(preset.train, precision=precision), 0)
    ctx.new_optimisers(preset.train.lr)
    chunk = auto_chunk_size(model.eval(), [x])

    def evaluate() -> None:
        with torch.no_grad(), autocast(model, precision, frozen=True):
            q = model.encode(x)
            importance_weighted_nll(log_weights(model, x, q, q.rsample(samples), chunk))

    def log_prob() -> float:
        with torch.no_grad(), autocast(model, precision, frozen=True):
            return model.log_prob(x, z).mean().item()

    tasks = {
        "update": lambda: method.step(ctx, x),
        "encoder update": lambda: ctx.update(lambda: method.objective(ctx, x), groups=["encoder"]),
        "evaluation": evaluate,
    }
    side = Side(model, tasks, log_prob)


def log_likelihood() -> float:
    """Mean log p(x|z) of the batch at z = 0, in evaluation mode, before any update."""
    side.model.eval()
    return side.log_prob()


def cpu_seconds(task: str) -> float:
    """Perform one task in a worker process."""
    side.model.train(task != "evaluation")
    start = time.process_time()
    side.tasks[task]()
    return time.process_time() - start


def compare(name: str, rounds: int) -> list[str]:
    """Return the table rows of one model."""
    precisions = ["float32"] if name == "synthetic" else ["float32", "bfloat16"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def process(precision: str | None) -> ProcessPoolExecutor:
            options = {"initializer": setup, "initargs": (name, precision, folder / str(precision))}
            return stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), **options))

        baseline = process(None)
        sides = {precision: process(precision) for precision in precisions}
        expected = baseline.submit(log_likelihood).result()
        for precision, pool in sides.items():
            value = pool.submit(log_likelihood).result()
            if not math.isclose(value, expected, rel_tol=TOLERANCE[precision]):
                raise SystemExit(f"{name}, {precision}: log p(x|z) is {value}, the naive implementation has {expected}")
        rows = []
        for task in TASKS:
            for pool in (baseline, *sides.values()):
                pool.submit(cpu_seconds, task).result()  # warm-up
            times = [
                [pool.submit(cpu_seconds, task).result() for pool in (baseline, *sides.values())] for _ in range(rounds)
            ]
            for column, precision in enumerate(precisions, start=1):
                medians = [statistics.median(row[i] for row in times) for i in (0, column)]
                speedup = statistics.median(row[0] / row[column] for row in times)
                rows.append(f"| {name}, {task} | {precision} | {medians[0]:.3g} | {medians[1]:.3g} | {speedup:.2f}× |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_naive", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=7, help="after one warm-up round (default: 7)")
    args = parser.parse_args()
    print("| model and task | precision | naive (s) | bench (s) | speed-up |\n|---|---|--:|--:|--:|")
    for name in args.names:
        print("\n".join(compare(name, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
