"""Timing gate: the cost of every method against ``baseline.json``.

FLOPs are counted and must be equal. Seconds are compared as a ratio to the basic VAE, measured in alternation in the
same process, with a bound for noisy machines. Run with ``tox -e timing``. After an intended change write the baseline:

    BENCH_WRITE_BASELINE=1 python -m pytest -n 0 -m timing --benchmark-enable tests/perf
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.config import TextModelConfig
from bench.data import tensors
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.experiment.benchmark import MAX_INNER, random_data
from bench.methods.vae import BasicVAE
from bench.models.build import build_model
from bench.training import registry
from bench.training.context import TrainingContext
from bench.training.flops import flop_counter
from bench.training.torch_setup import torch_settings
from bench.training.trainer import Trainer
from benchmarks.naive import NaiveTraining, naive
from tests.conftest import TEXT_TOY, TOY, VECTOR_TOY, planner, trainers
from tests.methods.test_contract import METHODS, quick

pytestmark = [
    pytest.mark.timing,
    pytest.mark.filterwarnings("ignore:TF32"),  # from oneDNN, when it is switched off
]

BASELINE = Path(__file__).with_name("baseline.json")
WRITE = bool(os.environ.get("BENCH_WRITE_BASELINE"))
EXAMPLES, SAMPLES = 10, 4
ROUNDS, MAX_SLOWDOWN, MAX_LOOP_OVERHEAD = 15, 1.6, 1.4
MAX_PLAIN = 1.05  # measured: 0.8 to 1.0, with a noise of 0.05
#: An update takes milliseconds: longer than the interpreter's share, short enough for many rounds.
TIMED = replace(
    TEXT_TOY,
    model=TextModelConfig(latent_dim=8, embedding=32, hidden=64),
    train=replace(TEXT_TOY.train, batch_size=16, lr=0.1),
)


@pytest.fixture(scope="session")
def create(toy_data, tmp_path_factory) -> Callable[..., Trainer]:
    """``create("image", "vae")``: a trainer that has started its last phase."""

    def create(modality: str, expression: str, preset=None) -> Trainer:
        data = toy_data[modality]
        preset = preset or {"image": TOY, "text": TEXT_TOY, "vector": VECTOR_TOY}[modality]
        folder = tmp_path_factory.mktemp("trainer")
        trainer = trainers(planner(data, preset, folder), data, preset)(expression, folder)
        trainer.model.train()
        trainer.start_phase(len(trainer.phases) - 1)
        return trainer

    return create


def compare(section: str, modality: str, name: str, value: Any, passes: Callable[[Any], bool]) -> None:
    """Fail unless the value passes against the baseline; write it first if asked to."""
    baseline = json.loads(BASELINE.read_text("utf-8"))
    entries = baseline[section].setdefault(modality, {})
    if WRITE:
        entries[name] = value
        write(baseline)
    assert name in entries, (
        f"no {section} of {name} ({modality}) in {BASELINE.name}: see the top of {Path(__file__).name}"
    )
    assert passes(entries[name]), f"{section} of {name} ({modality}): {value}, baseline {entries[name]}"


def write(baseline: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Write one line per method; drop methods that no longer exist."""
    lines = []
    for section, modalities in baseline.items():
        blocks = []
        for modality, entries in modalities.items():
            rows = [f"   {json.dumps(name)}: {json.dumps(entries[name])}" for name in METHODS if name in entries]
            blocks.append(f'  "{modality}": {{\n' + ",\n".join(rows) + "\n  }")
        lines.append(f' "{section}": {{\n' + ",\n".join(blocks) + "\n }")
    BASELINE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def count_flops(trainer: Trainer) -> dict[str, Any]:
    """Parameters, FLOPs of an update of each kind, FLOPs of evaluating one example.

    Without oneDNN, whose LSTM is one opaque operation: then every product is counted by torch's formulas.
    """
    _, (x,) = trainer.data.blocks("test", EXAMPLES, EXAMPLES)
    ctx = trainer.ctx
    with torch.backends.mkldnn.flags(enabled=False):
        for phase in range(len(trainer.phases)):
            trainer.start_phase(phase)
            trainer.method.step(ctx, x)
        with flop_counter() as counter:
            evaluation = EvaluationContext(trainer.model, ctx.data, ctx.train, seed=0)
            compute_metrics(trainer.method, evaluation, [x], SAMPLES, EXAMPLES * SAMPLES)
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "update": {kind: round(flops) for kind, flops in ctx.flops_by_kind.items()},
        "evaluation": counter.get_total_flops() // EXAMPLES,
    }


@pytest.mark.parametrize(
    ("name", "modality"), [(name, modality) for name in METHODS for modality in registry.method(name).modalities]
)
def test_flops_equal_the_baseline(name, modality, create):
    flops = count_flops(create(modality, name))
    compare("flops", modality, name, flops, lambda expected: flops == expected)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_extra_encoder_pass_is_counted(modality, create, monkeypatch):
    usual = count_flops(create(modality, "vae"))
    posterior = BasicVAE.posterior
    monkeypatch.setattr(BasicVAE, "posterior", lambda *args, **options: [posterior(*args, **options) for _ in "ab"][1])
    extra = count_flops(create(modality, "vae"))
    kind = "main: encoder+decoder"
    assert extra["update"][kind] > usual["update"][kind] and extra["evaluation"] > usual["evaluation"]


class Pair:
    """CPU seconds of two functions, called in alternation; every other round in reverse order."""

    def __init__(self, function: Callable[[], object], reference: Callable[[], object]):
        self.functions = (function, reference)
        self.ratios: list[float] = []

    def round(self) -> None:
        seconds = [0.0, 0.0]
        for i in (0, 1) if len(self.ratios) % 2 else (1, 0):
            start = time.process_time()
            self.functions[i]()
            seconds[i] = time.process_time() - start
        self.ratios.append(seconds[0] / seconds[1])

    def measure(self, benchmark, bound: float) -> float:
        """Return the median ratio; above the bound measure again with three times the rounds."""
        benchmark.pedantic(self.round, rounds=ROUNDS, warmup_rounds=2)
        if statistics.median(self.ratios) > bound:
            self.ratios.clear()
            for _ in range(3 * ROUNDS):
                self.round()
        benchmark.extra_info["ratio"] = statistics.median(self.ratios)
        return benchmark.extra_info["ratio"]


def repeated_step(trainer: Trainer) -> Callable[[], object]:
    """The same step on the same batch at every call."""
    _, (x,) = trainer.data.blocks("test", TIMED.train.batch_size, TIMED.train.batch_size)
    if hasattr(trainer.method.config, "max_inner"):
        trainer.method.config = replace(trainer.method.config, max_inner=MAX_INNER)
    return lambda: trainer.method.step(trainer.ctx, x)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name != "vae" and "text" in registry.method(name).modalities]
)
def test_step_time_relative_to_the_vae(name, create, benchmark):
    pair = Pair(repeated_step(create("text", quick(name), TIMED)), repeated_step(create("text", "vae", TIMED)))
    known = json.loads(BASELINE.read_text("utf-8"))["seconds"]["text"].get(name, 0)
    ratio = pair.measure(benchmark, 0 if WRITE else known * MAX_SLOWDOWN)
    compare("seconds", "text", name, round(ratio, 2), lambda expected: ratio <= expected * MAX_SLOWDOWN)


@pytest.mark.parametrize("groups", [("encoder", "decoder"), ("encoder",)], ids=["update", "inner update"])
@pytest.mark.parametrize("size", ["synthetic:paper", "synthetic:small", "text:small"])
def test_text_update_time_relative_to_a_plain_one(size, groups, tmp_path, benchmark):
    """Against PyTorch's layers, all gradients, its clipping and its default optimisers."""
    preset, prepared = random_data(size, tmp_path)
    data, method = tensors.load(prepared, preset.model), BasicVAE()
    model = build_model(preset.model, data.info).train()
    plain = NaiveTraining(naive(model), preset.train.optimiser, preset.train.lr)
    ctx = TrainingContext(method, model, data, preset.train, 0)
    ctx.new_optimisers(preset.train.lr)
    _, (x,) = data.blocks("val", preset.train.batch_size, preset.train.batch_size)
    with torch_settings("cpu", threads=1):
        pair = Pair(lambda: ctx.update(lambda: method.objective(ctx, x), groups), lambda: plain.update(x, groups))
        ratio = pair.measure(benchmark, MAX_PLAIN)
    print(f"{size}, {'+'.join(groups)}: {1 / ratio:.2f} times as fast")
    assert ratio <= MAX_PLAIN


def test_loop_overhead(create, benchmark):
    """The trainer's own work per step: batches, bookkeeping, checks."""
    ratio = Pair(create("text", "vae", TIMED).train_step, repeated_step(create("text", "vae", TIMED))).measure(
        benchmark, MAX_LOOP_OVERHEAD
    )
    assert ratio <= MAX_LOOP_OVERHEAD
