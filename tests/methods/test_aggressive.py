"""Aggressive encoder training (He et al., ICLR 2019): its inner loop and the rule that ends it."""

import math
from dataclasses import replace

import pytest
import torch

from bench.training import registry
from tests.conftest import TRAIN


class FakeContext:
    """Records updates; their losses are given."""

    step = 0
    train = replace(TRAIN, mi_rule="mi_batch")

    def __init__(self, losses=(), modality="image", updates_left=math.inf):
        self.losses, self.updates_left = iter(losses), updates_left
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

    def encoder_updates_left(self):
        return self.updates_left

    def log_event(self, text):
        self.events.append(text)


def aggressive(**settings):
    cls = registry.method("aggressive")
    return cls(cls.Config(**settings))


def last_epoch(method, ctx, mutual_information):
    """The epoch after which aggressive training ends, or None."""
    for epoch, mi in enumerate(mutual_information, start=1):
        ctx.val = {"mi_batch": mi}
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


def test_cap_on_encoder_updates_ends_aggressive_training():
    ctx = FakeContext([1, 1], updates_left=0)
    aggressive().step(ctx, "x")
    assert ctx.groups == [None] and "cap" in ctx.events[0]
