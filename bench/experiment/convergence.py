"""Whether the training of a cell has converged: what its last updates gained in the criterion of selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from bench.experiment.cell_record import CellRecord
from bench.training.result import LAST, Validation


def criterion(cell: CellRecord) -> list[tuple[int, float]]:
    """Return update and value of every validation of the last phase at a KL weight of 1; higher is better.

    The value is the one that selects weights: the validation ELBO, or the negative loss of a method that is selected
    by its own. Cells that keep their last weights are measured by the ELBO, too.
    """
    values = [(line.update, line.metrics.get("loss"), line.metrics.get("elbo")) for line in _last_phase(cell)]
    pairs = [(update, elbo if loss is None else -loss) for update, loss, elbo in values]
    return [(update, value) for update, value in pairs if value is not None]


def _last_phase(cell: CellRecord) -> list[Validation]:
    """Return the validations of the last phase at a KL weight of 1."""
    return [line for line in cell.history if line.phase == cell.history[-1].phase and line.beta >= 1]


def keeps_last(cell: CellRecord) -> bool:
    """Return whether the last weights were kept, whatever the criterion."""
    return bool(cell.result and cell.result.training and cell.result.training.best_update is None)


def reached(cell: CellRecord) -> float:
    """Return the criterion of the kept weights, the best ones or the last; NaN if there is none."""
    values = [value for _, value in criterion(cell)] or [math.nan]
    return values[-1] if keeps_last(cell) else max(values)


def gain(cell: CellRecord) -> float:
    """Return the gain of the criterion in nats: the best value overall minus the best up to 80 % of the updates.

    Where the last weights are kept, the change of either sign since the last validation up to 80 %. Infinite if no
    validation before counts, NaN if none does at all.
    """
    early = (1 - LAST) * cell.history[-1].update if cell.history else 0
    before = [value for update, value in criterion(cell) if update <= early] or [-math.inf]
    return abs(reached(cell) - before[-1]) if keeps_last(cell) else reached(cell) - max(before)


def limit_reached(cell: CellRecord) -> bool:
    """Return whether the preset ended additional encoder updates that the method would have made."""
    return bool(cell.result and cell.result.training and cell.result.training.limit_reached)


def diverged(cell: CellRecord) -> tuple[float, float] | None:
    """Return the mean training loss of the first and the last epoch, if it has risen by more than its first size.

    Epochs are those of the last phase at a KL weight of 1.
    """
    losses = [line.train_loss for line in _last_phase(cell)]
    has_risen = bool(losses) and losses[-1] - losses[0] > abs(losses[0])
    return (losses[0], losses[-1]) if has_risen else None


def converged(cell: CellRecord) -> bool:
    """Return whether the last updates gained less than the tolerance, no limit ended a part, and no loss diverged."""
    return gain(cell) < cell.config.train.tolerance and not limit_reached(cell) and not diverged(cell)


def last_encoder_epoch(history: Sequence[Validation]) -> int:
    """Return the last epoch (from 1) with additional encoder updates; 0 without any."""
    counts = [0, *(line.encoder_updates for line in history)]
    return max((epoch for epoch, (before, now) in enumerate(pairwise(counts), 1) if now > before), default=0)
