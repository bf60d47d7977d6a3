"""Aggressive training of the inference network (lagging inference networks).

Loss:      the basic VAE's. While aggressive, each step updates the encoder alone, first on the current batch, then on
           random batches, until the mean loss per word or image over a window of updates exceeds that of the previous
           window, at most ``max_inner`` times; then the decoder alone, on the current batch. Aggressive training ends
           for good when the mutual information (MI) on validation stops rising.     (He et al., ICLR 2019, Algorithm 1)
Defaults:  the paper's. Windows of 10 updates on images and 15 on text. It ends at the fifth epoch with an MI below the
           best so far on images (bad epochs are never reset), and at the first with an MI below the last on text.
           ``reset`` counts consecutive bad epochs.
Deviates:  encoder updates do not change the decoder's BatchNorm statistics. The presets ``quick`` and ``small`` end it
           after a share of the updates (``train.extra_updates_until``), and use ``guarded``: the MI rule ignores epochs
           in which the KL weight was below 1, because a rising weight alone can lower MI, and those before MI has
           reached 0.1 nats or ``train.decay_from`` epochs have passed, because it would compare noise with noise.
           ``aggressive(guarded=False)`` is the paper's rule there, too.
Note:      the window means of a loss that has stopped falling are almost independent. They would end an inner loop
           after e = 2.72 windows on average, so the training record has the mean number of windows for comparison.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, DataInfo, Method, Range, Schedule, State, TrainConfig, check_ranges

WINDOW = {"image": 10, "text": 15, "vector": 10}  # encoder updates between comparisons of the loss
PATIENCE = {"image": 5, "text": 1, "vector": 5}  # bad epochs that end aggressive training
COLLAPSED_BELOW = 0.1  # nats of MI
EXPECTED_EPOCHS = 5  # that aggressive training lasts, for the estimate of the cost
STATE = ("active", "mi_threshold", "bad_epochs", "min_beta", "used", "loops", "windows")


class Aggressive(Method):
    title = "Aggressive"
    summary = "encoder trained to convergence before each decoder update, until MI stops rising"
    citation = "He et al., ICLR 2019 (arXiv 1901.05534)"
    family = "optimisation"
    marker = "plus"
    table_order = 50
    suites = {
        "core": ["aggressive"],
        "paper": ["aggressive", "aggressive(guarded=False)", "aggressive+anneal"],
        "lag": ["aggressive"],
    }
    vae_settings = {"max_inner": 0}
    preset_overrides = {"quick": {"guarded": True}, "small": {"guarded": True}}
    revision = 2
    space = {"window": Range(5, 30)}

    @dataclass(frozen=True)
    class Config:
        max_inner: int = 99
        window: int | None = None  # None: 15 for text, otherwise 10
        patience: int | None = None  # None: 1 epoch below the last MI for text, otherwise 5 below the best
        reset: bool = False
        guarded: bool = False  # whether the MI rule waits until z is in use at a KL weight of 1

        def __post_init__(self) -> None:
            check_ranges(self, "window patience", "max_inner")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.active = self.config.max_inner > 0
        self.mi_threshold = -math.inf  # an epoch with a lower MI is bad
        self.bad_epochs = 0
        self.min_beta = math.inf  # the lowest KL weight of the epoch
        self.used = False  # whether MI has reached the threshold of collapse at a KL weight of 1
        self.loops = self.windows = 0  # inner loops, and complete windows in them

    def expected_cost(self, train: TrainConfig, data: DataInfo) -> float:
        inner = min(self.config.max_inner, math.e * (self.config.window or WINDOW[data.modality]))
        epochs = max(EXPECTED_EPOCHS, train.decay_from if self.config.guarded else 0)
        limit = 1.0 if train.extra_updates_until is None else train.extra_updates_until
        return 1 + inner * min(limit, epochs / train.epochs)

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        if self.active and not ctx.extra_updates_allowed():
            self.deactivate(ctx, "the preset's limit is reached")
        if not self.active:
            return super().step(ctx, x)
        self.min_beta = min(self.min_beta, ctx.beta)
        self.fit_encoder(ctx, x)
        return ctx.update(lambda: self.objective(ctx, x), groups=["decoder"])

    def fit_encoder(self, ctx: Context, x: Tensor) -> None:
        """Update the encoder until the loss per word or image stops falling."""
        window = self.config.window or WINDOW[ctx.data.modality]
        previous, losses, units = math.inf, [], []
        self.loops += 1
        for inner in range(self.config.max_inner):
            batch = x if inner == 0 else ctx.next_batch()
            loss = ctx.update(partial(self.objective, ctx, batch), groups=["encoder"])  # nats per example
            losses.append(loss * len(batch))  # nats of the batch
            units.append(torch.as_tensor(ctx.num_tokens(batch)))  # words or images of the batch
            if len(losses) == window:
                mean = (torch.stack(losses).sum() / torch.stack(units).sum()).item()  # nats per word or image
                losses, units = [], []
                self.windows += 1
                if mean > previous:
                    return
                previous = mean

    def on_epoch_end(self, ctx: Context) -> None:
        if not self.active:
            return
        mi, min_beta, self.min_beta = ctx.val[ctx.train.mi_rule], self.min_beta, math.inf
        self.used = self.used or (mi >= COLLAPSED_BELOW and min_beta >= 1)
        epochs = round(ctx.progress * ctx.train.epochs)
        is_asked = min_beta >= 1 and (self.used or epochs > ctx.train.decay_from)
        if is_asked or not self.config.guarded:
            if mi < self.mi_threshold:
                self.bad_epochs += 1
            elif self.config.reset:
                self.bad_epochs = 0
            self.mi_threshold = mi if ctx.data.modality == "text" else max(mi, self.mi_threshold)
            if self.bad_epochs >= (self.config.patience or PATIENCE[ctx.data.modality]):
                self.deactivate(ctx, "validation MI stopped rising")
        if self.active and ctx.progress >= 1:
            self.deactivate(ctx, "training ended")

    def deactivate(self, ctx: Context, reason: str) -> None:
        """Continue with basic VAE updates for the rest of training."""
        self.active = False
        mi, windows = ctx.val.get(ctx.train.mi_rule, math.nan), self.windows / max(self.loops, 1)
        ctx.log_event(
            f"aggressive training ended after {ctx.step} updates at a validation MI of {mi:.3g}: {reason}; "
            f"{windows:.2f} windows per inner loop (independent means: {math.e:.2f})"
        )

    def state_dict(self) -> State:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: State) -> None:
        for name in STATE:
            setattr(self, name, state[name])
