"""Aggressive encoder training (He et al., ICLR 2019): its inner loop and the rule that ends it."""

import math
from dataclasses import replace

import pytest
import torch

from bench.training import registry
from tests.conftest import TRAIN


class FakeContext:
    """Records updates; their losses are given."""

    step, beta = 0, 1.0
    train = replace(TRAIN, epochs=100, decay_from=3, mi_rule="mi_batch")

    def __init__(self, losses=(), modality="image", allowed=True):
        self.losses, self.allowed, self.progress = iter(losses), allowed, 0.0
        self.groups, self.batches, self.events, self.val = [], 0, [], {}
        self.data = type("Data", (), {"modality": modality})
        self.tokens_per_example = 1

    def update(self, objective, groups=None):
        self.groups.append(groups)
        loss = next(self.losses)
        if isinstance(loss, tuple):  # nats per word, and words per sentence
            loss, self.tokens_per_example = loss
        return torch.tensor(float(loss) * self.tokens_per_example)

    def num_tokens(self, x):
        return self.tokens_per_example * len(x)

    def next_batch(self):
        self.batches += 1
        return "x"

    def extra_updates_allowed(self):
        return self.allowed

    def log_event(self, text):
        self.events.append(text)


def aggressive(**settings):
    cls = registry.method("aggressive")
    return cls(cls.Config(**settings))


def last_epoch(method, ctx, mutual_information, weights=()):
    """The epoch after which aggressive training ends, or None; ``weights`` are the KL weights of the first ones."""
    for epoch, mi in enumerate(mutual_information, start=1):
        ctx.val, ctx.progress = {"mi_batch": mi}, epoch / ctx.train.epochs
        method.min_beta = weights[epoch - 1] if epoch <= len(weights) else 1.0
        method.on_epoch_end(ctx)
        if ctx.events:
            return epoch
    return None


@pytest.mark.parametrize(("modality", "window"), [("image", 10), ("text", 15)])
def test_inner_loop_stops_when_the_loss_rises(modality, window):
    ctx = FakeContext([5] * window + [4] * window + [6] * window + [0], modality)
    aggressive().step(ctx, "x")
    assert ctx.groups == [["encoder"]] * (3 * window) + [["decoder"]]
    assert ctx.batches == 3 * window - 1, "the first inner update is on the current batch"


def test_windows_compare_the_loss_per_word():
    """Long sentences have a higher loss per sentence, which must not end the loop."""
    windows = [(1.0, 3), (0.9, 7), (0.8, 3), (0.85, 7), (0.1, 7)]
    ctx = FakeContext([window for window in windows for _ in range(2)], "text")
    aggressive(window=2, max_inner=10).fit_encoder(ctx, "x")
    assert ctx.groups == [["encoder"]] * 8


def test_inner_loop_stops_after_99_updates():
    ctx = FakeContext(range(1000, 0, -1))
    aggressive().step(ctx, "x")
    assert ctx.groups == [["encoder"]] * 99 + [["decoder"]]


def test_image_rule_counts_five_epochs_below_the_best():
    values = [1.0, 0.9, 1.1, 1.0, 1.2, 1.1, 1.3, 1.2, 1.4, 1.3]
    assert last_epoch(aggressive(), FakeContext(), values) == 10
    assert last_epoch(aggressive(reset=True), FakeContext(), values) is None


def test_text_rule_ends_with_the_first_fall():
    assert last_epoch(aggressive(), FakeContext(modality="text"), [0.1, 0.2, 0.19, 0.3]) == 3


def test_limit_ends_aggressive_training():
    ctx = FakeContext([1, 1], allowed=False)
    aggressive().step(ctx, "x")
    assert ctx.groups == [None] and "limit" in ctx.events[0]


GUARDED = {
    "MI in use": ([0.2, 0.3, 0.25], (), 3),
    "noise below 0.1 nats": ([0.05, 0.04, 0.09], (), None),
    "the wait ends with decay_from": ([0.05, 0.04, 0.03, 0.02, 0.01], (), 5),
    "in use once is enough": ([0.2, 0.05], (), 2),
    "KL weight below 1": ([3.0, 2.5, 2.0, 1.5, 1.0, 1.5], (0.1, 0.3, 0.5, 0.7, 0.9), None),
    "KL weight has reached 1": ([3.0, 2.0, 1.0, 0.9], (0.1, 0.9), 4),
}


@pytest.mark.parametrize("case", GUARDED)
def test_guarded_rule_waits_until_z_is_in_use(case):
    values, weights, epoch = GUARDED[case]
    assert last_epoch(aggressive(guarded=True), FakeContext(modality="text"), values, weights) == epoch
    falls = [number for number in range(1, len(values)) if values[number] < values[number - 1]]
    assert last_epoch(aggressive(), FakeContext(modality="text"), values, weights) == falls[0] + 1


def test_lowest_kl_weight_of_an_epoch_counts():
    method, ctx = aggressive(max_inner=1, guarded=True), FakeContext([1] * 4)
    for ctx.beta in (0.9, 1.0):
        method.step(ctx, "x")
    assert method.min_beta == 0.9
    ctx.val = {"mi_batch": 1.0}
    method.on_epoch_end(ctx)
    assert method.min_beta > 1 and not method.used


def test_event_has_the_windows_per_inner_loop():
    ctx = FakeContext([3, 3, 2, 2, 4, 4, 0, 1, 1, 2, 2, 0], "text")
    method = aggressive(window=2)
    for _ in range(2):
        method.step(ctx, "x")
    assert last_epoch(method, ctx, [0.2, 0.125]) == 2
    assert "MI of 0.125" in ctx.events[0] and "2.50 windows" in ctx.events[0]


def test_windows_of_independent_means_are_e_on_average():
    generator = torch.Generator().manual_seed(0)
    losses = iter(lambda: torch.randn(1, generator=generator).item(), None)
    method, ctx = aggressive(window=2), FakeContext(losses)
    for _ in range(2000):
        method.fit_encoder(ctx, "x")
    assert method.windows / method.loops == pytest.approx(math.e, abs=0.08)
