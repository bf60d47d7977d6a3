"""What the trainer's loop costs beyond the bare step: the objective, its gradient, clipping and the optimiser.

The two take turns in one process: the trainer lets a watcher look after every update, and there a copy of the model is
given one bare step on a fixed batch. From the end of that to the next look is what the loop took for its own.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench.methods.vae import BasicVAE
from torch import Tensor

from bench.cli.speed import parse_size
from bench.core.config import TrainConfig
from bench.data import tensors
from bench.method import Context, Method
from bench.models.build import build_model
from bench.models.vae import VAE
from bench.training.factory import configure_torch
from bench.training.trainer import Trainer
from tests.perf.pairs import no_garbage_collection


class Bare(Context):
    """Just enough of a context for an objective."""

    def __init__(self, model: VAE, train: TrainConfig):
        self.model, self.train, self.noise = model, train, torch.Generator().manual_seed(0)

    def generator(self, purpose: str = "noise") -> torch.Generator:
        return self.noise


def bare_step(method: Method, model: VAE, train: TrainConfig, x: Tensor) -> Callable[[], Tensor]:
    ctx, parameters = Bare(model, train), [*model.parameters()]
    optimiser = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[train.optimiser](parameters, train.lr, fused=True)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = method.objective(ctx, x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.clip, foreach=True)
        optimiser.step()
        return loss.detach()

    return step


def overhead(name: str, folder: Path, rounds: int) -> float:
    """Loop / bare step - 1 at a model size: the median over rounds."""
    configure_torch(threads=1, device="cpu", gpu_share=0)
    size = parse_size(name)
    data = tensors.load(size.prepared(folder), size.preset.model)
    train = replace(size.preset.train, epochs=1, epoch_updates=rounds)
    torch.manual_seed(0)
    model = build_model(size.preset.model, data.info).train()
    found: list[tuple[float, float]] = []
    since = 0.0
    bare: Callable[[], Tensor] | None = None

    def watch(ctx) -> None:
        nonlocal bare, since
        loop = time.process_time() - since
        bare = bare or bare_step(BasicVAE(), copy.deepcopy(model), train, ctx.main_batches[0])
        started = time.process_time()
        bare()
        since = time.process_time()
        found.append((loop, since - started))

    trainer = Trainer(BasicVAE(), model, data, train, 0, folder, lambda history: None, watch)
    with no_garbage_collection():
        trainer.run()
    warm = found[len(found) // 10 + 2 :]
    return statistics.median(loop / bare for loop, bare in warm) - 1


def gate(benchmark, name: str, folder: Path, rounds: int, bar: float) -> None:
    """Fail where the overhead is above the bar, twice. ``rounds`` are five where nothing is timed."""
    rounds = rounds if benchmark.enabled else 5
    found = [benchmark.pedantic(overhead, (name, folder / "one", rounds))]
    if not benchmark.enabled:
        return
    if found[0] > bar:
        found.append(overhead(name, folder / "two", 2 * rounds))
    benchmark.extra_info |= {"overhead": found, "bar": bar}
    check(found[-1], bar)


def check(found: float, bar: float) -> None:
    assert found <= bar, f"the loop takes {found:.1%} more than its step, not {bar:.0%}"


def test_the_loop_on_small_sentences(benchmark, tmp_path):
    gate(benchmark, "synthetic:paper", tmp_path, 400, bar=0.15)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["image:paper", "text:paper"])
def test_the_loop_at_paper_size(name, benchmark, tmp_path):
    gate(benchmark, name, tmp_path, 20, bar=0.03)


def test_a_slow_loop_fails_the_gate(tmp_path, monkeypatch):
    look = Trainer.poll

    def slow(trainer: Trainer) -> None:
        until = time.process_time() + 0.005
        while time.process_time() < until:
            pass
        look(trainer)

    monkeypatch.setattr(Trainer, "look", slow)
    with pytest.raises(AssertionError, match="more than its step"):
        check(overhead("synthetic:paper", tmp_path, 30), 0.15)
