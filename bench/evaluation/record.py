"""What an evaluation stores. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from bench.core.config import FULL_PRECISION, PRECISIONS, check_ranges
from bench.core.numbers import Finite, Number, storable
from bench.core.provenance import Provenance

if TYPE_CHECKING:
    import numpy as np

#: Increased by every change that moves a basic metric of a trained model, or adds one.
EVALUATION_VERSION = 3

Metrics = dict[str, Number]


@dataclass(frozen=True)
class BasicSettings:
    """Settings of the basic metrics. Cells that differ in them are never in one table."""

    test_examples: int | None = None  # the first so many of the split; None: all
    iw_samples: int = 500  # per example, of the importance-weighted NLL
    batch_size: int = 50  # examples encoded and sampled together; the batch of the in-batch MI
    pictures: int = 16  # reconstructions and prior samples stored for the report
    precision: str = FULL_PRECISION  # of the networks; float32 by default even if they were trained in less
    split: str = "test"  # or "val", of the trials of tuning

    def __post_init__(self) -> None:
        check_ranges(
            self, "test_examples iw_samples batch_size", "pictures", split=("test", "val"), precision=PRECISIONS
        )


class Record(BaseModel):
    """Base of the stored records."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class GroupRecord(Record):
    """How a metric group was measured."""

    settings: dict[str, Any]
    seconds: Finite
    """Run time of the group."""
    chunk: int
    """(example, sample) pairs decoded at a time."""
    provenance: Provenance | None = None


class EvaluationRecord(Record):
    """Metrics of a trained cell on the test set, and how they were measured."""

    version: int = EVALUATION_VERSION
    """Version of the basic metrics; evaluations of other versions are repeated."""
    settings: BasicSettings
    metrics: Metrics
    """Metrics of the basic evaluation and of all groups; null: not defined for this method or data set."""
    not_finite: tuple[str, ...] = ()
    """Metrics that are null because they were NaN or infinite."""
    references: dict[str, Number] = Field(default_factory=dict)
    """NLL of reference models in nats per example, and standard errors (``…_se``)."""
    seconds: Finite
    """Run time of the basic evaluation."""
    chunk: int
    """(example, sample) pairs decoded at a time."""
    provenance: Provenance | None = None
    groups: dict[str, GroupRecord] = Field(default_factory=dict)
    """Metric groups that were measured."""
    pending: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of metric groups that are yet to be measured."""

    def with_metrics(self, metrics: Mapping[str, Any]) -> EvaluationRecord:
        """Return a copy with more metrics; those that are not finite become None and are named in ``not_finite``."""
        stored = {name: storable(value) for name, value in metrics.items()}
        before = [name for name in self.not_finite if name not in metrics]
        now = [name for name, value in metrics.items() if value is not None and stored[name] is None]
        return self.model_copy(update={"metrics": {**self.metrics, **stored}, "not_finite": (*before, *now)})


class DecodedText(Record):
    """A sentence decoded from one z."""

    greedy: str
    """The most probable word at each step."""
    beam: str
    """By beam search."""
    ancestral: str
    """By sampling."""


class Reconstruction(DecodedText):
    """A test example, decoded from its posterior mean."""

    original: str


class InterpolationStep(DecodedText):
    """A point on the line between two posterior means."""

    share: float = Field(ge=0, le=1)
    """Position between the first mean (0) and the second (1)."""


class Interpolation(Record):
    """Sentences decoded along the line between the posterior means of two test examples."""

    start: str
    end: str
    steps: list[InterpolationStep]


class SampleTexts(Record):
    """Sentences decoded by a text model. Without a latent there are samples from the prior only."""

    samples: list[str]
    """Decoded from samples of the prior."""
    reconstructions: list[Reconstruction] = Field(default_factory=list)
    interpolations: list[Interpolation] = Field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a trained model, as it is stored in the cell's folder."""

    record: EvaluationRecord
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # [N] each, in the order of the test set
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # for the report's figures
    texts: SampleTexts | None = None  # for the report, of text data
