"""The one training loop: phases, schedule, validation, selection, learning-rate decay, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.cancellation import Interrupted, never
from bench.core.config import TrainConfig, training_identity
from bench.core.files import rename_to_backup
from bench.core.hashing import short_hash
from bench.data.tensors import Data
from bench.method import Method
from bench.models.vae import VAE
from bench.training import checkpoint
from bench.training.context import TrainingContext

CHECKPOINT_SECONDS = 60
FINITE_CHECK_UPDATES = 20  # losses stay on their device for so many updates before they are looked at


class NonFiniteLoss(ArithmeticError):
    """Training left the numbers."""


class Trainer:
    """Trains one cell in ``folder``, from its last checkpoint if there is one.

    ``report(history)`` is called after every validation, with all lines so far; ``watch(ctx)`` before the first step
    and after every one. ``run()`` returns the training part of the result and leaves the selected weights in
    ``best.pt``. Asked to stop (``bench.watchdog``) it finishes the step, saves its state and raises ``Interrupted``.
    It raises ``checkpoint.Damaged`` where it cannot go on from what is stored.
    """

    def __init__(
        self,
        method: Method,
        model: VAE,
        data: Data,
        config: TrainConfig,
        seed: int,
        folder: Path,
        validate: Callable[..., dict[str, Any]],
        report: Callable[[list[dict]], None],
        watch: Callable[[TrainingContext], None] | None = None,
        should_stop: Callable[[], bool] = never,
    ):
        self.method, self.model, self.data, self.config, self.seed = method, model, data, config, seed
        self.folder, self.validate, self.report, self.watch = folder, validate, report, watch
        self.should_stop = should_stop
        self.ctx = TrainingContext(method, model, data, config, seed)
        self.epoch_updates = config.updates_per_epoch(self.ctx.main_batches.per_pass)
        self.ctx.total = config.updates(self.ctx.main_batches.per_pass)
        self.phases = list(method.phases())
        self.cell = short_hash(
            [method.name, method.config, method.schedule, method.kl_term, training_identity(asdict(config)), seed]
        )
        self.history: list[dict] = []
        self.losses: list[Tensor] = []
        # All that decides what happens next, beside weights, optimisers, method and counters.
        self.state: dict[str, Any] = {
            "phase": -1,
            "phase_start": 0,
            "phase_over": True,
            "lr": config.lr,
            "best_score": -math.inf,
            "best_update": None,
            "bad_epochs": 0,
            "decays": 0,
            "loss_sum": 0.0,
            "loss_count": 0,
            "resumes": 0,
            "stopped_by": None,
        }

    def run(self) -> dict:
        ctx, state = self.ctx, self.state
        self.resume()
        if self.history:  # a kill may have come between the checkpoint and the report of its last line
            self.report(self.history)
        self.model.train()
        saved = time.monotonic()
        ctx.clock.to("train")
        while state["stopped_by"] is None:
            stop = self.should_stop()
            if state["phase_over"] or ctx.step >= self.phase_end(state["phase"]):
                self.start_phase(state["phase"] + 1)
                if not ctx.step:
                    self.poll()
            phase_length = self.phase_end(state["phase"]) - state["phase_start"]
            ctx.beta = self.method.schedule.weight(ctx.step - state["phase_start"], phase_length, self.config.ramp)
            ctx.reseed_streams("outside updates", ctx.step)
            self.losses.append(self.method.step(ctx, ctx.next_main_batch()))
            ctx.step += 1
            self.method.on_step_end(ctx)
            self.poll()
            if len(self.losses) >= FINITE_CHECK_UPDATES:
                self.check_losses()
            if ctx.step % self.epoch_updates == 0:
                self.end_epoch()
                saved = time.monotonic()
            elif stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.check_losses()
                ctx.clock.to("checkpoint")
                self.save()
                ctx.clock.to("train")
                saved = time.monotonic()
            if stop and state["stopped_by"] is None:
                raise Interrupted
        ctx.clock.to(None)
        return self.result()

    def poll(self) -> None:
        """Let the watcher look, off the clock."""
        if self.watch:
            self.ctx.clock.to("validation")
            self.watch(self.ctx)
            self.ctx.clock.to("train")

    def phase_end(self, index: int) -> int:
        """The update at which a phase ends; the last one ends with the budget."""
        if index == len(self.phases) - 1:
            return self.ctx.total
        share = sum(phase.share for phase in self.phases[: index + 1])
        return round(share * self.config.epochs) * self.epoch_updates

    def start_phase(self, index: int) -> None:
        self.state |= {"phase": index, "phase_start": self.ctx.step, "lr": self.config.lr, "bad_epochs": 0}
        self.state |= {"phase_over": False, "decays": 0, "best_score": -math.inf, "best_update": None}
        self.ctx.phase = self.phases[index]
        self.method.on_phase_start(self.ctx)
        self.ctx.new_optimisers(self.state["lr"])

    def check_losses(self) -> None:
        """Look at the losses since the last look: fail on the first that is not finite, add up the rest."""
        if not self.losses:
            return
        values = torch.stack(self.losses).double().cpu()
        self.losses = []
        if not values.isfinite().all():
            first = int((~values.isfinite()).nonzero()[0])
            known = {"loss": values[first].item(), "β": self.ctx.beta, "lr": self.state["lr"], **self.ctx.val}
            shown = ", ".join(f"{key} {value:.4g}" for key, value in known.items() if value is not None)
            update = self.ctx.step - len(values) + first + 1
            raise NonFiniteLoss(f"loss is not finite at update {update} of {self.method.name}: {shown}")
        self.state["loss_sum"] += values.sum().item()
        self.state["loss_count"] += len(values)

    def end_epoch(self) -> None:
        ctx, state = self.ctx, self.state
        self.check_losses()
        self.method.on_validation_start(ctx)
        ctx.clock.to("validation")
        by_loss = ctx.phase.selection_metric == "loss"
        ctx.val = self.validate(
            self.method, self.model, self.data, self.config, self.seed, self.should_measure_lag(), by_loss
        )
        ctx.clock.to("train")
        if not math.isfinite(ctx.val["elbo"]):
            raise NonFiniteLoss(f"validation ELBO is not finite after update {ctx.step} of {self.method.name}")
        self.method.on_epoch_end(ctx)
        self.history.append(
            {
                "phase": ctx.phase.name,
                "update": ctx.step,
                "encoder_updates": ctx.encoder_updates,
                "seconds": ctx.clock.seconds["train"],
                "train_loss": state["loss_sum"] / state["loss_count"],
                "beta": ctx.beta,
                "lr": state["lr"],
                **ctx.val,
            }
        )
        ctx.clock.to("checkpoint")
        self.history[-1]["selected"] = self.select()
        state |= {"loss_sum": 0.0, "loss_count": 0}
        if ctx.step >= ctx.total:
            state["stopped_by"] = "budget"
        self.save()
        self.report(self.history)
        ctx.clock.to("train")

    def should_measure_lag(self) -> bool:
        """At every validation where quadrature tells the lag; else, since it takes as long as a hundred updates, at the
        first, second, fourth … and the last that is planned."""
        number = len(self.history) + 1
        often = self.model.latent_dim <= 2
        return often or number & (number - 1) == 0 or self.ctx.step >= self.ctx.total

    def select(self) -> bool:
        """Keep the weights if validation likes them best; else count towards a decay. Not while a ramp is running, nor
        in a phase that nothing judges."""
        state, selection_metric = self.state, self.ctx.phase.selection_metric
        if self.ctx.beta < 1 or selection_metric is None:
            return False
        score = self.ctx.val["elbo"] if selection_metric == "elbo" else -self.ctx.val["loss"]
        if score > state["best_score"]:
            state |= {"best_score": score, "best_update": self.ctx.step, "bad_epochs": 0}
            self.save_best()
            return True
        state["bad_epochs"] += 1
        if state["bad_epochs"] >= self.config.patience and self.ctx.step > self.config.decay_from * self.epoch_updates:
            self.decay()
        return False

    def decay(self) -> None:
        """Back to the best weights with a smaller learning rate; the method's own state goes on."""
        state = self.state
        state |= {"lr": state["lr"] * self.config.decay, "bad_epochs": 0, "decays": state["decays"] + 1}
        self.model.load_state_dict(checkpoint.load_best(self.folder, self.ctx.device, state["best_update"])["model"])
        self.ctx.new_optimisers(state["lr"])
        if state["decays"] >= self.config.max_decays:
            state["phase_over"] = True
            if state["phase"] == len(self.phases) - 1:
                state["stopped_by"] = "decays"

    def save_best(self) -> None:
        state = {"model": self.model.state_dict(), "method": self.method.state_dict()}
        state["update"] = self.state["best_update"]
        checkpoint.save(self.folder, "best.pt", state)

    COUNTERS = ("step", "encoder_updates", "draws", "events", "val", "updates_by_kind", "flops_by_kind")

    def save(self) -> None:
        ctx = self.ctx
        ctx.clock.to(ctx.clock.purpose)
        checkpoint.save_last(
            self.folder,
            {
                "cell": self.cell,
                "model": self.model.state_dict(),
                "optimisers": {name: optimiser.state_dict() for name, optimiser in ctx.optimisers.items()},
                "method": self.method.state_dict(),
                "counters": {name: getattr(ctx, name) for name in self.COUNTERS},
                "seconds": ctx.clock.seconds,
                "state": self.state,
                "history": self.history,
            },
        )

    def resume(self) -> None:
        """Go on from the newest state that fits; without any, begin."""
        misfit = None
        for path, saved in checkpoint.states(self.folder, self.ctx.device):
            try:
                self.restore(saved)
                return
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                rename_to_backup(path)
                misfit = error
        if misfit:  # it has left its traces: only a new trainer begins
            raise checkpoint.Damaged("no checkpoint fits this cell") from misfit

    def restore(self, saved: dict[str, Any]) -> None:
        """Be as when ``saved`` was saved."""
        if saved["cell"] != self.cell:
            raise ValueError("a checkpoint of another cell")
        self.state |= saved["state"]
        self.state["resumes"] += 1
        ctx = self.ctx
        for name in self.COUNTERS:
            setattr(ctx, name, saved["counters"][name])
        ctx.clock.seconds = saved["seconds"]
        ctx.phase = self.phases[self.state["phase"]]
        ctx.new_optimisers(self.state["lr"])
        self.model.load_state_dict(saved["model"])
        self.method.load_state_dict(saved["method"])
        for name, optimiser in ctx.optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        self.history = saved["history"]

    def result(self) -> dict:
        ctx, state = self.ctx, self.state
        if state["best_update"] is None:  # the ramp never ended, or nothing judges: the last weights stand
            self.save_best()
        return {
            "updates": ctx.step,
            "encoder_updates": ctx.encoder_updates,
            "best_update": state["best_update"],
            "stopped_by": state["stopped_by"],
            **{f"{purpose}_seconds": seconds for purpose, seconds in ctx.clock.seconds.items()},
            "flops": ctx.flops(),
            "updates_by_kind": ctx.updates_by_kind,
            "flops_by_kind": ctx.flops_by_kind,
            "resumes": state["resumes"],
            "events": ctx.events,
        }
