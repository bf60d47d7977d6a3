"""What a method costs in counted operations, which are exact: compared for equality with ``baseline.json``.

For every method found, at its default on the tests' toy models: parameters, operations of one update of each kind on a
fixed batch, and of evaluating an example. So an extra pass or a lost ``no_grad`` cannot slip in. Without oneDNN, whose
LSTM is one operation that tells nothing of what it does: every product is then counted by torch's own formulas, the
same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench.methods.vae import BasicVAE

from bench.data.dataset import DataInfo
from bench.evaluation.metrics import EvaluationContext, compute_metrics
from bench.training import registry
from bench.training.flops import flop_counter
from bench.training.trainer import Trainer
from tests.perf import baseline

pytestmark = pytest.mark.filterwarnings("ignore:TF32")  # oneDNN's own, when it is switched off

EXAMPLES, SAMPLES = 10, 4  # in the batch and in what is evaluated; samples of each in evaluation
MODALITIES = ("image", "text")


@pytest.fixture
def made(trainer, text_trainer, tmp_path: Path):
    """``made("image", "vae")`` -> a Trainer on the toy data."""
    return lambda modality, name: {"image": trainer, "text": text_trainer}[modality](name, tmp_path / modality / name)


def cost(trainer: Trainer) -> dict:
    method, model, ctx = trainer.method, trainer.model, trainer.ctx
    _, (x,) = trainer.data.blocks("test", EXAMPLES, EXAMPLES)
    model.train()
    with torch.backends.mkldnn.flags(enabled=False):
        for phase in range(len(trainer.phases)):
            trainer.start_phase(phase)
            method.step(ctx, x)
        with flop_counter() as counter:
            compute_metrics(
                method, EvaluationContext(model, ctx.data, ctx.train, seed=0), [x], SAMPLES, EXAMPLES * SAMPLES
            )
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "update": ctx.flops_by_kind,
        "evaluation of an example": counter.get_total_flops() / EXAMPLES,
    }


def check(modality: str, name: str, found: dict) -> None:
    expected = baseline.entry("counts", modality, name)
    moved = f"{name} ({modality}) costs something else: if it should, {baseline.COMMANDS['counts']}"
    assert found == expected, moved


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", registry.method_names())
def test_counts_are_those_of_the_baseline(name, modality, made, request):
    data: DataInfo = request.getfixturevalue("prepared" if modality == "image" else "text_prepared").info
    if reason := registry.method(name).skip(data):
        pytest.skip(reason)
    found = cost(made(modality, name))
    if baseline.WRITING:
        baseline.move("counts", modality, name, found)
    check(modality, name, found)


def test_the_baseline_knows_no_other_methods():
    assert {name for entries in baseline.read()["counts"].values() for name in entries} <= {*registry.method_names()}


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_extra_pass_fails_the_gate(modality, made, monkeypatch):
    posterior = BasicVAE.posterior
    twice = lambda *given, **named: (posterior(*given, **named), posterior(*given, **named))[1]  # noqa: E731
    monkeypatch.setattr(BasicVAE, "posterior", twice)
    found = cost(made(modality, "vae"))
    with pytest.raises(AssertionError, match="BENCH_WRITE_BASELINE"):
        check(modality, "vae", found)
    usual = baseline.entry("counts", modality, "vae")
    assert found["update"]["main: encoder+decoder"] > usual["update"]["main: encoder+decoder"]
    assert found["evaluation of an example"] > usual["evaluation of an example"]


def test_a_method_without_an_entry_is_told_what_to_type(made):
    with pytest.raises(pytest.fail.Exception, match="BENCH_WRITE_BASELINE=1 python -m pytest tests/perf"):
        check("image", "not_there_yet", {})
