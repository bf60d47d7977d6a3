"""What a method's step and evaluation cost in CPU time, as ratios to a reference that is timed in turns with them.

The reference of the basic VAE is the naive formulation, which does not change when our models do; that of all other
methods is the basic VAE. A ratio that is a quarter above the committed one is taken again with twice the rounds, then
it fails. Under ``--benchmark-disable``, as in the fast tests, every work runs once and nothing is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.core.config import ImageModelConfig, TextModelConfig, TrainConfig
from bench.data import tensors
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.models.build import build_model
from bench.training import registry
from bench.training.expressions import parse_methods
from bench.training.factory import configure_torch
from bench.training.trainer import Trainer
from tests.conftest import TRAIN
from tests.perf import baseline
from tests.perf.naive import NaiveTraining, naive, naive_nll
from tests.perf.pairs import Pair, Work, no_garbage_collection

ROUNDS, TOLERANCE = 30, 0.25
BATCH, SAMPLES = 16, 4  # examples in a batch and in what is evaluated; samples of each
EXTRA = 3  # updates without the decoder in every step of a method that makes some
#: Models whose update takes some milliseconds: larger than what Python does around it, small enough for 30 rounds.
SIZES = {
    "image": ImageModelConfig(7, "any", 8, (16, 16), 64, 16, (5, 3, 3, 3), (3, 3), 2),
    "text": TextModelConfig(latent_dim=8, embedding=32, hidden=64),
}
OPTIMISER = {"image": ("adam", 1e-3), "text": ("sgd", 0.1)}
OTHERS = [name for name in registry.method_names() if not registry.method(name).baseline]


@pytest.fixture(autouse=True, scope="module")
def as_in_a_run():
    configure_torch(threads=1, device="cpu", gpu_share=0)


@pytest.fixture(params=SIZES)
def modality(request) -> str:
    return request.param


@pytest.fixture
def data(modality, prepared, text_prepared):
    return tensors.load(prepared if modality == "image" else text_prepared, SIZES[modality])


@pytest.fixture
def made(modality, data, tmp_path: Path) -> Callable[[str], Trainer]:
    """``made("vae")`` -> a Trainer in its first phase, of the method as the smallest preset has it."""

    def make(name: str) -> Trainer:
        train = replace(TRAIN, batch_size=BATCH, max_encoder_updates=float(EXTRA), optimiser=OPTIMISER[modality][0])
        ((row,), _) = parse_methods([name], "quick")
        method = row.instance()
        if reason := method.skip(data.info):
            pytest.skip(reason)
        torch.manual_seed(0)
        model = method.build(build_model(SIZES[modality], data.info, method.latent), data.info)
        trainer = Trainer(method, model, data, train, 0, tmp_path, lambda history: None)
        trainer.start_phase(len(trainer.phases) - 1)
        trainer.ctx.total = 1  # so that ``EXTRA`` counts for one step
        return trainer

    return make


def step(trainer: Trainer) -> Work:
    """One and the same step: on one batch, with as many updates every time."""
    ctx, (x,) = trainer.ctx, batch(trainer.data)
    trainer.model.train()

    def work() -> None:
        ctx.encoder_updates = 0
        trainer.method.step(ctx, x)

    return work


def evaluation(trainer: Trainer) -> Work:
    blocks = batch(trainer.data)
    ctx = EvaluationContext(trainer.model, trainer.data.info, TrainConfig(), seed=0)
    return lambda: compute_metrics(trainer.method, ctx, blocks, SAMPLES, BATCH * SAMPLES)


def batch(data: tensors.Data) -> list[torch.Tensor]:
    return data.blocks("test", BATCH, BATCH)[1]


def gate(benchmark, section: str, name: str, pair: Pair) -> None:
    """Fail where the ratio is too far above the committed one, twice."""
    with no_garbage_collection():
        benchmark.pedantic(pair.round, rounds=ROUNDS, warmup_rounds=2)
    if not benchmark.enabled:
        return
    del pair.rounds[:2]  # that warmed up
    found = pair.ratio
    if baseline.WRITING:
        found = pair.again(2 * ROUNDS)
        baseline.move("ratios", section, name, round(found, 3))
    expected = baseline.entry("ratios", section, name)
    benchmark.extra_info |= {"ratio": found, "committed": expected}
    check(name, pair, found, expected)


def check(name: str, pair: Pair, found: float, expected: float) -> None:
    if found > expected * (1 + TOLERANCE):
        again = pair.again(2 * ROUNDS)
        assert again <= expected * (1 + TOLERANCE), (
            f"{name} costs {again:.2f} times its reference ({found:.2f} before), not {expected:.2f}: "
            f"if it should, {baseline.COMMANDS['ratios']}"
        )


def naive_pair(trainer: Trainer, modality: str, what: str) -> Pair:
    plain, (x,) = naive(trainer.model), batch(trainer.data)
    if what == "step":
        training = NaiveTraining(plain, *OPTIMISER[modality])
        return Pair(step(trainer), lambda: training.update(x))
    plain.eval()
    return Pair(evaluation(trainer), lambda: naive_nll(plain, x, SAMPLES, SAMPLES))


@pytest.mark.parametrize("what", ["step", "evaluation"])
def test_the_basic_vae_against_the_naive_formulation(what, made, modality, benchmark):
    gate(benchmark, modality, f"vae: {what}, to the naive one", naive_pair(made("vae"), modality, what))


@pytest.mark.parametrize("name", OTHERS)
def test_steps_against_the_basic_vae(name, made, modality, benchmark):
    gate(benchmark, modality, name, Pair(step(made(name)), step(made("vae"))))


def test_a_busy_loop_fails_the_gate(made):
    """Also where the first look is by chance a good one: what is a quarter slower is found the second time."""
    usual = Pair(step(made("vae")), step(made("vae")))
    usual.again(2)
    expected = usual.again(5)
    seconds = max(reference for _, reference in usual.rounds)

    def slower() -> None:
        until = time.process_time() + seconds
        usual.work()
        while time.process_time() < until + seconds:
            pass

    slow = Pair(slower, usual.reference)
    with pytest.raises(AssertionError, match="costs .* times its reference"):
        check("vae", slow, slow.again(5), expected)
