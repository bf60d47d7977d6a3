"""Records of training: one ``Validation`` per validation and one ``TrainingResult`` at the end."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.core.numbers import Finite, Number

#: Fraction of the updates, the last ones, whose gain is small once training has converged.
LAST = 0.2


class Validation(BaseModel):
    """One line of ``history.jsonl``: the state of training and the metrics on the validation set (extra fields)."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)
    __pydantic_extra__: dict[str, Number]

    phase: str
    """Name of the training phase."""
    update: int
    """Decoder updates so far."""
    encoder_updates: int
    """Updates so far that left the decoder unchanged."""
    seconds: Finite
    """Training time so far, without validation and checkpoints."""
    train_loss: Finite
    """Mean training loss since the previous validation, in nats per example."""
    beta: Finite
    """KL weight of the last update."""
    lr: Finite
    """Learning rate of the last update."""
    selected: bool
    """Whether the validation score improved and the weights were saved as the best."""

    @property
    def metrics(self) -> dict[str, float | int | bool | None]:
        """Return the metrics on the validation set; None: not defined, or not finite."""
        return self.__pydantic_extra__


class TrainingResult(BaseModel):
    """What training cost and how it ended; part of ``result.json``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    updates: int
    """Decoder updates."""
    encoder_updates: int
    """Updates that left the decoder unchanged."""
    best_update: int | None
    """Decoder update of the selected weights; None: the last weights were kept."""
    stopped_by: Literal["budget", "decays"]
    """Whether training used all planned updates, or all learning-rate decays of its last phase."""
    limit_reached: bool = False
    """Whether the preset (``extra_updates_until``) ended additional encoder updates that the method would have made."""
    train_seconds: Finite
    validation_seconds: Finite
    data_seconds: Finite
    checkpoint_seconds: Finite
    flops: Finite
    """Floating-point operations of all updates."""
    updates_by_kind: dict[str, int]
    """``"phase: group+group"`` → number of updates."""
    flops_by_kind: dict[str, int]
    """``"phase: group+group"`` → operations of one update, the mean of those that were counted."""
    resumes: int
    """How often training continued from a checkpoint."""
    events: tuple[str, ...]
    """Messages that the method logged."""
    parameters: dict[str, int]
    """Submodule → number of parameters, masked kernels counted in full."""
