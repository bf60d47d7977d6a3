"""The training loop: phases, KL weight, validation, selection, learning-rate decay, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.cancellation import Interrupted, never
from bench.core.config import TrainConfig, training_identity
from bench.core.files import rename_to_backup
from bench.core.hashing import short_hash
from bench.data.tensors import Data
from bench.method import Method, State
from bench.models.build import reference_parameters
from bench.models.vae import VAE
from bench.training import checkpoint
from bench.training.context import TrainingContext
from bench.training.result import LAST, TrainingResult, Validation

CHECKPOINT_SECONDS = 60
#: Attributes of the context that a checkpoint stores.
COUNTERS = (
    *("step", "encoder_updates", "draws", "events", "val", "limit_reached"),
    *("updates_by_kind", "flops_by_kind", "counted"),
)
FINITE_CHECK_UPDATES = 20  # losses are read from the device once in so many updates


class NonFiniteLoss(ArithmeticError):
    """The training loss is NaN or infinite."""


@dataclass
class TrainerState:
    """What decides the next step, in addition to weights, optimisers, the method's state and counters."""

    lr: float
    phase: int = -1
    phase_start: int = 0
    phase_end: int = 0  # decoder update after which the next phase starts
    best_score: float = -math.inf
    best_update: int | None = None
    bad_epochs: int = 0  # validations since the last improvement
    decays: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    resumes: int = 0
    stopped_by: Literal["budget", "decays"] | None = None


@dataclass(eq=False, repr=False)
class Trainer:
    """Trains one cell in ``folder``, from its last checkpoint if there is one.

    ``validate(method, model, data, config, seed, with_lag, with_loss)`` returns the validation metrics;
    ``report(history, update)`` is called after every checkpoint, ``observer(ctx)`` before the first step and after
    every step.
    """

    method: Method
    model: VAE
    data: Data
    config: TrainConfig
    seed: int
    folder: Path
    validate: Callable[..., Mapping[str, Any]]
    report: Callable[[list[Validation], int], None]
    observer: Callable[[TrainingContext], None] | None = None
    should_stop: Callable[[], bool] = never

    def __post_init__(self) -> None:
        method, config = self.method, self.config
        self.ctx = TrainingContext(method, self.model, self.data, config, self.seed)
        self.epoch_updates = config.updates_per_epoch(self.ctx.main_batches.per_pass)
        self.ctx.total = config.updates(self.ctx.main_batches.per_pass)
        self.phases = list(method.phases())
        if not math.isclose(sum(phase.share for phase in self.phases), 1, abs_tol=1e-6):
            raise ValueError(f"the shares of the phases of method '{method.name}' must sum to 1")
        if len(self.phases) > config.epochs:
            raise ValueError(f"{len(self.phases)} phases of method '{method.name}' need as many train.epochs at least")
        self.identity = short_hash(
            [method.name, method.config, method.schedule, method.kl_term, training_identity(asdict(config)), self.seed]
        )
        self.state = TrainerState(lr=config.lr)
        self.history: list[Validation] = []
        self.pending_losses: list[Tensor] = []  # scalars on the device, not yet checked
        self.saved_at = time.monotonic()

    def run(self) -> TrainingResult:
        """Train to the end of the budget or of the decays; leave the selected weights in ``best.pt``.

        Raises ``Interrupted`` after saving the state when ``should_stop()``, ``NonFiniteLoss`` when training diverges,
        and ``DamagedCheckpoint`` when no stored state can be continued.
        """
        self.resume()
        try:
            return self.train()
        except Exception as error:
            error.add_note(f"in method '{self.method.name}'")
            raise

    def train(self) -> TrainingResult:
        """Run the training loop from the current state."""
        ctx = self.ctx
        if ctx.step:  # the process may have been killed between the last checkpoint and its report
            self.report(self.history, ctx.step)
        self.model.train()
        ctx.clock.to("train")
        while self.state.stopped_by is None:
            stop = self.should_stop()
            if ctx.step >= self.state.phase_end:
                self.start_phase(self.state.phase + 1)
            self.train_step()
            if ctx.step % self.epoch_updates == 0:
                self.end_epoch()
            elif stop or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                self.check_losses()
                ctx.clock.to("checkpoint")
                self.save()
                ctx.clock.to("train")
            if stop and self.state.stopped_by is None:
                raise Interrupted
        ctx.clock.to(None)
        return self.result()

    def start_phase(self, index: int) -> None:
        """Reset the learning rate and selection, and create the optimisers of phase ``index``, of an epoch at least."""
        ctx, later = self.ctx, len(self.phases) - index - 1
        share = sum(phase.share for phase in self.phases[: index + 1])
        end = min(max(round(share * self.config.epochs), index + 1), self.config.epochs - later) * self.epoch_updates
        self.state = TrainerState(self.config.lr, index, ctx.step, end, resumes=self.state.resumes)
        ctx.phase = self.phases[index]
        self.method.on_phase_start(ctx)
        ctx.new_optimisers(self.config.lr)
        if not ctx.step:
            self.notify_observer()

    def train_step(self) -> None:
        """Make one step of the method: one decoder update and any number of others."""
        ctx, state = self.ctx, self.state
        updates = ctx.step - state.phase_start, state.phase_end - state.phase_start
        ctx.beta = self.method.schedule.weight(*updates, self.config.ramp)
        ctx.reseed_streams("outside updates", ctx.step)
        ctx.decoder_updates = 0
        self.pending_losses.append(self.method.step(ctx, ctx.next_main_batch()))
        if ctx.decoder_updates != 1:
            raise RuntimeError(
                f"step() of method '{self.method.name}' made {ctx.decoder_updates} decoder updates: "
                "call ctx.update exactly once with the group 'decoder'"
            )
        ctx.step += 1
        self.method.on_step_end(ctx)
        self.notify_observer()
        if len(self.pending_losses) >= FINITE_CHECK_UPDATES:
            self.check_losses()

    def notify_observer(self) -> None:
        """Call the observer; its time does not count as training."""
        if self.observer:
            self.ctx.clock.to("validation")
            self.observer(self.ctx)
            self.ctx.clock.to("train")

    def check_losses(self) -> None:
        """Add the pending losses to the epoch's mean. Raise ``NonFiniteLoss`` at the first that is not finite."""
        if not self.pending_losses:
            return
        values = torch.stack(self.pending_losses).double().cpu()
        self.pending_losses = []
        if not values.isfinite().all():
            first = int((~values.isfinite()).nonzero()[0])
            numbers = {"loss": values[first].item(), "β": self.ctx.beta, "lr": self.state.lr, **self.ctx.val}
            details = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items() if value is not None)
            update = self.ctx.step - len(values) + first + 1
            raise NonFiniteLoss(f"the training loss is NaN or infinite at update {update}: {details}")
        self.state.loss_sum += values.sum().item()
        self.state.loss_count += len(values)

    def end_epoch(self) -> None:
        """Validate, select, decay the learning rate if due, and save."""
        ctx, state = self.ctx, self.state
        self.check_losses()
        self.method.on_validation_start(ctx)
        ctx.clock.to("validation")
        number, with_loss = len(self.history) + 1, ctx.phase.selection_metric == "loss"
        # The lag is always measured where quadrature is cheap. Elsewhere it costs about a hundred updates: only at the
        # 1st, 2nd, 4th, 8th … and the last validation.
        with_lag = self.model.latent_dim <= 2 or number & (number - 1) == 0 or ctx.step >= ctx.total
        ctx.val = self.validate(self.method, self.model, self.data, self.config, self.seed, with_lag, with_loss)
        ctx.clock.to("train")
        if not math.isfinite(ctx.val["elbo"]):
            raise NonFiniteLoss(f"the validation ELBO is NaN or infinite after update {ctx.step}")
        self.method.on_epoch_end(ctx)
        ctx.clock.to("checkpoint")
        lr, selected = state.lr, self.select()
        line = {
            **ctx.val,
            "phase": ctx.phase.name,
            "update": ctx.step,
            "encoder_updates": ctx.encoder_updates,
            "seconds": ctx.clock.seconds["train"],
            "train_loss": state.loss_sum / state.loss_count,
            "beta": ctx.beta,
            "lr": lr,
            "selected": selected,
        }
        self.history.append(Validation.model_validate(line))
        state.loss_sum, state.loss_count = 0.0, 0
        if ctx.step >= ctx.total:
            state.stopped_by = "budget"
        self.save()
        ctx.clock.to("train")

    def select(self) -> bool:
        """Save the weights if the validation score improved; otherwise increment the patience counter.

        Skipped during KL warm-up. A phase without a selection metric only reduces its learning rate, if it is due.
        """
        state, metric = self.state, self.ctx.phase.selection_metric
        if metric is None:
            if (decays := self.scheduled_decays()) > state.decays:
                state.decays, state.lr = decays, self.config.lr * self.config.decay**decays
                self.ctx.new_optimisers(state.lr)
            return False
        if self.ctx.beta < 1:
            return False
        score = self.ctx.val["elbo"] if metric == "elbo" else -self.ctx.val["loss"]
        if score > state.best_score:
            state.best_score, state.best_update, state.bad_epochs = score, self.ctx.step, 0
            self.save_best()
            return True
        state.bad_epochs += 1
        if state.bad_epochs >= self.config.patience and self.ctx.step > self.config.decay_from * self.epoch_updates:
            self.decay()
        return False

    def scheduled_decays(self) -> int:
        """Return the decays due in a phase without a selection metric, whose last weights a run keeps.

        All decays of the preset, at equal distances, in the last phase only. The last decay is at 80 % of the updates,
        or in the middle of a phase that is shorter; half of the updates of the phase before it have the full rate.
        """
        state, ctx = self.state, self.ctx
        if state.phase < len(self.phases) - 1:
            return 0
        last = max((1 - LAST) * ctx.total, (state.phase_start + state.phase_end) / 2)
        done = 2 * (ctx.step - state.phase_start) / (last - state.phase_start) - 1  # share of the time of the decays
        return max(0, math.floor(self.config.max_decays * min(done, 1)))

    def decay(self) -> None:
        """Restore the best weights and reduce the learning rate; the method's own state stays as it is."""
        state = self.state
        state.lr, state.bad_epochs, state.decays = state.lr * self.config.decay, 0, state.decays + 1
        self.model.load_state_dict(checkpoint.load_best(self.folder, self.ctx.device, state.best_update)["model"])
        self.ctx.new_optimisers(state.lr)
        if state.decays >= self.config.max_decays:
            state.phase_end = self.ctx.step
            if state.phase == len(self.phases) - 1:
                state.stopped_by = "decays"

    def save_best(self) -> None:
        """Save the current weights as the selected ones."""
        state = {"model": self.model.state_dict(), "method": self.method.state_dict()}
        checkpoint.save(self.folder / "best.pt", state | {"update": self.state.best_update})

    def save(self) -> None:
        """Save a checkpoint of the whole state of training, and report it."""
        ctx = self.ctx
        ctx.clock.to(ctx.clock.purpose)  # brings its seconds up to date
        state = {
            "cell": self.identity,
            "model": self.model.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in ctx.optimisers.items()},
            "method": self.method.state_dict(),
            "counters": {name: getattr(ctx, name) for name in COUNTERS},
            "seconds": ctx.clock.seconds,
            "state": asdict(self.state),
            "history": [line.model_dump() for line in self.history],
        }
        checkpoint.save_last(self.folder, state)
        self.report(self.history, ctx.step)
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Restore the newest checkpoint of this cell, if any. Raise ``DamagedCheckpoint`` if none fits."""
        failure = None
        for path, saved in checkpoint.load_states(self.folder, self.ctx.device):
            try:
                self.restore(saved)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                rename_to_backup(path)
                failure = error
            else:
                self.restore_method(saved["method"])
                return
        if failure:  # it may have changed the model: only a new trainer can start again
            raise checkpoint.DamagedCheckpoint("no checkpoint fits this cell") from failure

    def restore(self, saved: dict[str, Any]) -> None:
        """Set all but the method's state to that of a checkpoint. Raise ``ValueError`` for one of another cell."""
        if saved["cell"] != self.identity:
            raise ValueError("a checkpoint of another cell")
        ctx, state = self.ctx, TrainerState(**saved["state"])
        state.resumes += 1
        self.state = state
        for name, value in saved["counters"].items():
            setattr(ctx, name, value)
        ctx.clock.seconds = saved["seconds"]
        ctx.phase = self.phases[state.phase]
        ctx.new_optimisers(state.lr)
        self.model.load_state_dict(saved["model"])
        for name, optimiser in ctx.optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        self.history = [Validation.model_validate(line) for line in saved["history"]]

    def restore_method(self, state: State) -> None:
        """Set the method's state. An error is one of the method, not a sign of a damaged checkpoint."""
        try:
            self.method.load_state_dict(state)
        except Exception as error:
            error.add_note(f"in load_state_dict of method '{self.method.name}'")
            raise

    def result(self) -> TrainingResult:
        """Return the record of the finished training."""
        ctx, state = self.ctx, self.state
        assert state.stopped_by is not None
        if state.best_update is None:  # the warm-up never ended, or there is no selection metric: keep the last weights
            self.save_best()
        return TrainingResult(
            updates=ctx.step,
            encoder_updates=ctx.encoder_updates,
            best_update=state.best_update,
            stopped_by=state.stopped_by,
            limit_reached=ctx.limit_reached,
            **{f"{purpose}_seconds": seconds for purpose, seconds in ctx.clock.seconds.items()},
            flops=ctx.flops(),
            updates_by_kind=ctx.updates_by_kind,
            flops_by_kind={kind: round(flops) for kind, flops in ctx.flops_by_kind.items()},
            resumes=state.resumes,
            events=tuple(ctx.events),
            parameters={name: sum(map(reference_parameters, ms)) for name, ms in self.model.submodules().items()},
        )
