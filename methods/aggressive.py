"""Aggressive training of the inference network (lagging inference networks).

Loss:      the basic VAE's. While aggressive, each step updates the encoder alone, first on the current batch, then on
           random batches, until the mean loss per word or image over a window of updates exceeds that of the previous
           window, at most ``max_inner`` times; then the decoder alone, on the current batch. Aggressive training ends
           for good when the mutual information (MI) on validation stops rising.     (He et al., ICLR 2019, Algorithm 1)
Defaults:  the paper's. Windows of 10 updates on images and 15 on text. It ends at the fifth epoch with an MI below the
           best so far on images (bad epochs are never reset), and at the first with an MI below the last on text.
           ``reset`` counts consecutive bad epochs.
Deviates:  encoder updates do not change the decoder's BatchNorm statistics. Presets can cap the number of encoder
           updates.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.method import Context, Method, Schedule, State, TrainConfig, check_ranges

WINDOW = {"image": 10, "text": 15}  # encoder updates between comparisons of the loss
PATIENCE = {"image": 5, "text": 1}  # bad epochs that end aggressive training


class Aggressive(Method):
    summary = "encoder trained to convergence before each decoder update, until MI stops rising"
    citation = "He et al., ICLR 2019"
    family = "optimisation"
    table_order = 50
    suites = {"core": ["aggressive"], "paper": ["aggressive", "aggressive+anneal"], "lag": ["aggressive"]}
    vae_settings = {"max_inner": 0}

    @dataclass(frozen=True)
    class Config:
        max_inner: int = 99
        window: int | None = None  # None: 10 for images, 15 for text
        patience: int | None = None  # None: 5 epochs below the best MI for images, 1 below the last for text
        reset: bool = False

        def __post_init__(self) -> None:
            check_ranges(self, "window patience", "max_inner")

    def __init__(self, config: Any = None, schedule: Schedule | None = None) -> None:
        super().__init__(config, schedule)
        self.active = self.config.max_inner > 0
        self.mi_threshold = float("-inf")  # an epoch with a lower MI is bad
        self.bad_epochs = 0

    def expected_cost(self, train: TrainConfig) -> float:
        return 1 + (2 if train.max_encoder_updates is None else train.max_encoder_updates) * (self.config.max_inner > 0)

    def step(self, ctx: Context, x: Tensor) -> Tensor:
        if self.active and ctx.encoder_updates_left() <= 0:
            self.deactivate(ctx, "the preset's cap on encoder updates is reached")
        if not self.active:
            return super().step(ctx, x)
        self.fit_encoder(ctx, x)
        return ctx.update(lambda: self.objective(ctx, x), groups=["decoder"])

    def fit_encoder(self, ctx: Context, x: Tensor) -> None:
        """Update the encoder until the loss per word or image stops falling."""
        window = self.config.window or WINDOW[ctx.data.modality]
        previous, losses, units = float("inf"), [], []
        for inner in range(int(min(self.config.max_inner, ctx.encoder_updates_left()))):
            batch = x if inner == 0 else ctx.next_batch()
            loss = ctx.update(partial(self.objective, ctx, batch), groups=["encoder"])  # nats per example
            losses.append(loss * len(batch))  # nats of the batch
            units.append(torch.as_tensor(ctx.num_tokens(batch)))  # words or images of the batch
            if len(losses) == window:
                mean = (torch.stack(losses).sum() / torch.stack(units).sum()).item()  # nats per word or image
                losses, units = [], []
                if mean > previous:
                    return
                previous = mean

    def on_epoch_end(self, ctx: Context) -> None:
        if not self.active:
            return
        text = ctx.data.modality == "text"
        mi = ctx.val[ctx.train.mi_rule]
        if mi < self.mi_threshold:
            self.bad_epochs += 1
        elif self.config.reset:
            self.bad_epochs = 0
        self.mi_threshold = mi if text else max(mi, self.mi_threshold)
        if self.bad_epochs >= (self.config.patience or PATIENCE[ctx.data.modality]):
            self.deactivate(ctx, "validation MI stopped rising")

    def deactivate(self, ctx: Context, reason: str) -> None:
        """Continue with basic VAE updates for the rest of training."""
        self.active = False
        ctx.log_event(f"aggressive training ended after {ctx.step} updates: {reason}")

    def state_dict(self) -> State:
        return {"active": self.active, "mi_threshold": self.mi_threshold, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: State) -> None:
        self.active, self.mi_threshold = state["active"], state["mi_threshold"]
        self.bad_epochs = state["bad_epochs"]
