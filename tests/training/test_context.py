"""The training context: batches, random streams, updates of parameter groups, clocks."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.method import Method
from bench.training import context
from bench.training.batches import Batches
from bench.training.context import Clock
from bench.training.flops import flop_counter
from tests.conftest import TEXT_TRAIN, TRAIN


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


@pytest.mark.parametrize(
    ("change", "groups", "message"),
    [
        (lambda loss: loss.expand(3), None, r"the loss is of shape \[3\]: return a scalar"),
        (lambda loss: None, None, "the loss is a NoneType: return a scalar"),
        (lambda loss: loss.detach(), None, "depends on no parameter"),
        (lambda loss: loss, ["enc"], "no parameter group 'enc': did you mean 'encoder'"),
    ],
)
def test_a_wrong_update_says_what_is_wrong(trainer, tmp_path, change, groups, message):
    run = trainer("vae", tmp_path)
    run.ctx.new_optimisers(1e-3)
    x = run.ctx.next_main_batch()
    with pytest.raises(ValueError, match=message):
        run.ctx.update(lambda: change(run.method.objective(run.ctx, x)), groups)


def test_an_update_leaves_other_groups_unchanged(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    ctx, model = run.ctx, run.model.train()
    ctx.new_optimisers(1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = ctx.next_main_batch()
    ctx.update(lambda: run.method.objective(ctx, x), groups=["encoder"])
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"features", "head"}
    assert all(p.requires_grad for p in model.parameters())
    assert (ctx.encoder_updates, ctx.decoder_updates, ctx.step) == (1, 0, 0)


@pytest.mark.parametrize(("share", "steps"), [(0.25, 3), (0.26, 4), (None, 12)])
def test_limit_counts_decoder_updates(share, steps, trainer, tmp_path):
    result = trainer("aggressive(max_inner=2)", tmp_path, replace(TRAIN, extra_updates_until=share)).run()
    kinds = {"main: encoder": 2 * steps, "main: decoder": steps, "main: encoder+decoder": 12 - steps}
    assert result.updates_by_kind == {kind: count for kind, count in kinds.items() if count}
    assert result.limit_reached is (share is not None)


def test_flops_of_sentences_of_different_lengths_are_sampled(text_trainer, tmp_path, monkeypatch):
    """A batch of three words costs less than one of nine: one batch is no estimate of the mean."""

    def flops(counted_every):
        monkeypatch.setattr("bench.training.context.COUNTED_EVERY", counted_every)
        run = text_trainer("vae", tmp_path / str(counted_every), train)
        counted, update = [], run.ctx.update

        def recorded(objective, groups=None):
            with flop_counter() as counter:
                loss = update(objective, groups)
            counted.append(counter.get_total_flops())
            return loss

        run.ctx.update = recorded
        return run.run(), counted

    train = replace(TEXT_TRAIN, equal_lengths=True, epochs=4)
    sampled, all_updates = flops(3)
    assert min(all_updates) < max(all_updates) / 2
    assert sampled.flops == pytest.approx(len(all_updates) * np.mean(all_updates[::3]))
    exact, all_updates = flops(1)
    assert exact.flops == pytest.approx(sum(all_updates))


def test_limit_is_not_reached_by_other_methods(trainer, tmp_path):
    result = trainer("fixed_inner_steps(steps=2)", tmp_path, replace(TRAIN, extra_updates_until=0.25)).run()
    assert result.updates_by_kind == {"main: encoder": 24, "main: decoder": 12} and not result.limit_reached


class LeavesOutTheEncoder(Method):
    name = "incomplete"

    def param_groups(self, model):
        return {"decoder": super().param_groups(model)["decoder"]}


def test_every_parameter_is_in_one_group(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    run.ctx.method = LeavesOutTheEncoder()
    with pytest.raises(
        ValueError, match="of method 'incomplete' must have .* every trainable parameter in exactly one"
    ):
        run.ctx.new_optimisers(1e-3)


def linear_loss(parameters, norm):
    """Loss whose gradient with respect to the parameters has the given norm."""
    count = sum(p.numel() for p in parameters)
    return norm / math.sqrt(count) * sum(p.sum() for p in parameters)


def moved(parameters, before):
    return math.sqrt(sum((p - b).double().square().sum().item() for p, b in zip(parameters, before, strict=True)))


@pytest.mark.parametrize(
    ("clip_by", "groups", "steps"),
    [
        ("joint", ["encoder"], {"encoder": 3 * 5 / 12.3693}),
        ("joint", ["decoder"], {"decoder": 12 * 5 / 12.3693}),
        ("joint", None, {"encoder": 3 * 5 / 12.3693, "decoder": 12 * 5 / 12.3693, "aux": 5}),
        ("joint", ["aux"], {"aux": 5}),
        ("group", None, {"encoder": 3, "decoder": 5, "aux": 5}),
        ("group", ["encoder"], {"encoder": 3}),
    ],
)
def test_gradients_are_clipped_by_the_norm_of_the_policy(clip_by, groups, steps, trainer, tmp_path):
    """Gradients of norm 3 (encoder), 12 (decoder) and 700 (added network), maximum norm 5, SGD with learning rate 1."""
    run = trainer("aae", tmp_path, replace(TRAIN, clip=5.0, clip_by=clip_by, optimiser="sgd"))
    run.ctx.method = Method()  # its groups share the preset's optimiser
    run.ctx.new_optimisers(1.0)
    parameters = run.model.double().parameter_groups()
    before = {name: [p.detach().clone() for p in group] for name, group in parameters.items()}
    norms = {"encoder": 3, "decoder": 12, "aux": 700}
    run.ctx.update(lambda: sum(linear_loss(parameters[name], norm) for name, norm in norms.items()), groups)
    for name, group in parameters.items():
        assert moved(group, before[name]) == pytest.approx(steps.get(name, 0), rel=1e-5), name


def test_clock_adds_seconds_to_the_current_purpose(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(context, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = Clock(torch.device("cpu"))
    for purpose in ("train", "data", None, "train", None):
        clock.to(purpose)
    assert clock.seconds == {"train": 5.0, "validation": 0.0, "data": 2.0, "checkpoint": 0.0}
