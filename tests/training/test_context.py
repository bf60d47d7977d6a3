"""The training context: batches, random streams, updates of parameter groups, clocks."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.method import Method
from bench.training import context
from bench.training.batches import Batches
from bench.training.context import Clock
from tests.conftest import TRAIN


def test_batches_are_a_function_of_their_number(data):
    config = replace(TRAIN, batch_size=30)
    one, other = Batches(data, config, 5, "outer"), Batches(data, config, 5, "outer")
    assert one.per_pass == 3
    later = other[7]
    assert torch.equal(later, [one[i] for i in range(8)][7])
    assert not torch.equal(one[0], one[3]), "a new order and new noise in every pass"
    assert not torch.equal(one[0], Batches(data, config, 5, "drawn")[0])
    assert set(one[0].unique().tolist()) == {0.0, 1.0}


def test_too_few_examples_for_a_batch(data):
    with pytest.raises(ValueError, match="do not fill one batch of 101"):
        Batches(data, replace(TRAIN, batch_size=101), 5, "outer")


class DrawsNoise(Method):
    def __init__(self):
        super().__init__()
        self.draws = []

    def step(self, ctx, x):
        self.draws.append(torch.rand((), generator=ctx.generator("mine")).item())
        return super().step(ctx, x)


def test_noise_outside_updates_is_a_function_of_the_step(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    run.method = run.ctx.method = DrawsNoise()
    run.run()
    run.ctx.reseed_streams("outside updates", 5)
    assert torch.rand((), generator=run.ctx.generator("mine")).item() == run.method.draws[5]
    assert len(set(run.method.draws)) == len(run.method.draws)


def test_an_update_leaves_other_groups_unchanged(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    ctx, model = run.ctx, run.model.train()
    ctx.new_optimisers(1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = ctx.next_main_batch()
    ctx.update(lambda: run.method.objective(ctx, x), groups=["encoder"])
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"features", "head"}
    assert all(p.grad is None for p in model.decoder.parameters()) and all(p.requires_grad for p in model.parameters())
    assert (ctx.encoder_updates, ctx.decoder_updates, ctx.step) == (1, 0, 0)


class ForgetsParameters(Method):
    name = "forgets"

    def param_groups(self, model):
        return {"decoder": super().param_groups(model)["decoder"]}


def test_every_parameter_is_in_one_group(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    run.ctx.method = ForgetsParameters()
    with pytest.raises(ValueError, match="of method 'forgets' must have .* every trainable parameter in exactly one"):
        run.ctx.new_optimisers(1e-3)


def test_gradients_are_clipped_over_the_updated_groups(trainer, tmp_path):
    run = trainer("vae", tmp_path, replace(TRAIN, clip=1e-3, optimiser="sgd"))
    ctx = run.ctx
    ctx.new_optimisers(1.0)
    encoder = run.model.parameter_groups()["encoder"]
    before = [p.detach().clone() for p in encoder]
    x = ctx.next_main_batch()
    ctx.update(lambda: run.method.objective(ctx, x), groups=["encoder"])
    moved = math.sqrt(sum((p - b).square().sum().item() for p, b in zip(encoder, before, strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_clock_adds_seconds_to_the_current_purpose(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(context, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = Clock(torch.device("cpu"))
    for purpose in ("train", "data", None, "train", None):
        clock.to(purpose)
    assert clock.seconds == {"train": 5.0, "validation": 0.0, "data": 2.0, "checkpoint": 0.0}
