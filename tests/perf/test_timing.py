"""What a method costs: in counted FLOPs, which are exact and gated, and in seconds, which are only reported.

``baseline.json`` holds, for every method at its default on the tests' toy model: parameters, FLOPs of one update of
each kind, FLOPs of evaluating twenty images. It is compared for equality, so that an extra pass or a lost ``no_grad``
cannot slip in. A change that means to alter the cost writes it anew: ``BENCH_WRITE_BASELINE=1 pytest tests/perf``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import data as tensors
from bench import registry
from bench.config import load_preset
from bench.evaluation.measure import EvaluationContext, measure
from bench.models.image import build_image_model
from bench.store import write_json
from bench.train import Trainer
from methods.vae import BasicVAE

BASELINE = Path(__file__).with_name("baseline.json")


def cost(trainer: Trainer) -> dict:
    method, model, ctx = trainer.method, trainer.model, trainer.ctx
    model.train()
    for phase in range(len(trainer.phases)):
        trainer.start_phase(phase)
        method.step(ctx, ctx.outer_batch())
    with FlopCounterMode(display=False) as counter:
        seen = EvaluationContext(model, ctx.data, ctx.train, seed=0)
        measure(method, seen, trainer.data.test[:20].split(10), samples=4, chunk=20)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "update": ctx.flops_by_kind, "evaluation": counter.get_total_flops()}


@pytest.mark.parametrize("name", registry.method_names())
def test_flops_are_those_of_the_baseline(name, trainer, tmp_path):
    found = cost(trainer(name, tmp_path))
    baseline = json.loads(BASELINE.read_text("utf-8"))
    if os.environ.get("BENCH_WRITE_BASELINE"):
        write_json(BASELINE, dict(sorted((baseline | {name: found}).items())))
    elif name not in baseline:
        pytest.skip(f"{name} is not in {BASELINE.name}: BENCH_WRITE_BASELINE=1 adds it")
    else:
        assert found == baseline[name]


def test_an_extra_pass_does_not_go_unnoticed(trainer, tmp_path, monkeypatch):
    usual = cost(trainer("vae", tmp_path / "usual"))
    posterior = BasicVAE.posterior
    twice = lambda *given, **named: (posterior(*given, **named), posterior(*given, **named))[1]  # noqa: E731
    monkeypatch.setattr(BasicVAE, "posterior", twice)
    found = cost(trainer("vae", tmp_path / "twice"))
    assert found["update"]["main: encoder+decoder"] > usual["update"]["main: encoder+decoder"]
    assert found["evaluation"] > usual["evaluation"]


def test_seconds_of_a_basic_update(benchmark, prepared, tmp_path):
    preset = load_preset("quick", "image")
    torch.manual_seed(0)
    model = build_image_model(preset.model)
    data = tensors.load(prepared, preset.model)
    trainer = Trainer(BasicVAE(), model, data, preset.train, 0, tmp_path, lambda history: None)
    trainer.start_phase(0)
    batch = trainer.ctx.outer_batch()
    model.train()
    benchmark.pedantic(lambda: trainer.method.step(trainer.ctx, batch), rounds=30, warmup_rounds=3)
    benchmark.extra_info["flops"] = trainer.ctx.flops()
