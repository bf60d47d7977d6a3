"""Aggressive training of the inference network (lagging inference networks).

While it is on, every step first updates the encoder alone, on the current batch and then on random ones, until the
mean loss per word or image over a window of updates is worse than over the window before (at most ``max_inner``
updates); then the decoder alone, on the current batch. It ends for good when validation MI stops rising, and training
is the basic one.

The windowed rule and the MI rule define the method and are the paper's. Its counter of bad epochs never goes back
to zero on images; ``reset`` makes it count consecutive ones. Unlike in the released code the inner updates neither
compute decoder gradients nor move the decoder's BatchNorm averages, and clipping looks at the encoder alone.
"""

from dataclasses import dataclass

import torch

from bench.method import Method, check_ranges

WINDOW = {"image": 10, "text": 15}  # inner updates between two looks at the loss
PATIENCE = {"image": 5, "text": 1}  # epochs of falling MI that end it


class Aggressive(Method):
    summary = "encoder updated to convergence before each decoder update, until MI stops rising"
    citation = "He et al., ICLR 2019"
    family = "optimisation"
    table_order = 50
    suites = {"core": ["aggressive"], "paper": ["aggressive", "aggressive+anneal"], "lag": ["aggressive"]}
    vae_settings = {"max_inner": 0}

    @dataclass(frozen=True)
    class Config:
        max_inner: int = 99
        window: int | None = None  # None: the paper's, 10 for images and 15 for text
        patience: int | None = None  # None: the paper's, 5 below the best for images and 1 below the last for text
        reset: bool = False

        def __post_init__(self):
            check_ranges(self, "window patience", "max_inner")

    def __init__(self, config=None, schedule=None):
        super().__init__(config, schedule)
        self.on_now = self.config.max_inner > 0
        self.reference_mi, self.bad_epochs = float("-inf"), 0

    def expected_cost(self, train):
        return 1 + (2 if train.max_encoder_updates is None else train.max_encoder_updates) * (self.config.max_inner > 0)

    def step(self, ctx, x):
        if self.on_now and ctx.encoder_updates_left() <= 0:
            self.end(ctx, "the preset's cap on extra updates")
        if not self.on_now:
            return super().step(ctx, x)
        self.fit_encoder(ctx, x)
        return ctx.update(lambda: self.objective(ctx, x), groups=["decoder"])

    def fit_encoder(self, ctx, x):
        window = self.config.window or WINDOW[ctx.data.modality]
        before, losses, units = float("inf"), [], []
        for inner in range(int(min(self.config.max_inner, ctx.encoder_updates_left()))):
            batch = x if inner == 0 else ctx.next_batch()
            loss = ctx.update(lambda batch=batch: self.objective(ctx, batch), groups=["encoder"])
            losses.append(loss * len(batch))
            units.append(torch.as_tensor(ctx.num_tokens(batch)))
            if len(losses) == window:
                now = (torch.stack(losses).sum() / torch.stack(units).sum()).item()
                losses, units = [], []
                if now > before:
                    return
                before = now

    def on_epoch_end(self, ctx):
        if not self.on_now:
            return
        text = ctx.data.modality == "text"
        mi = ctx.val[ctx.train.mi_rule]
        if mi < self.reference_mi:
            self.bad_epochs += 1
        elif self.config.reset:
            self.bad_epochs = 0
        self.reference_mi = mi if text else max(mi, self.reference_mi)
        if self.bad_epochs >= (self.config.patience or PATIENCE[ctx.data.modality]):
            self.end(ctx, "validation MI stopped rising")

    def end(self, ctx, reason):
        self.on_now = False
        ctx.log_event(f"aggressive training ended after {ctx.step} updates: {reason}")

    def state_dict(self):
        return {"on_now": self.on_now, "reference_mi": self.reference_mi, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state):
        self.on_now, self.reference_mi = state["on_now"], state["reference_mi"]
        self.bad_epochs = state["bad_epochs"]
