"""Types of a cell's JSON files. ``docs/schema.json`` is generated from them.

Each file states its schema version and the id of its cell. Records of another schema version are not converted: readers
raise ``SchemaVersionError``, which names the version of the harness that reads them.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from bench.core.config import ModelConfig, TrainConfig, model_identity, training_identity
from bench.core.errors import UserError, first_error
from bench.core.hashing import short_hash
from bench.core.provenance import Provenance
from bench.data.dataset import DataInfo
from bench.evaluation.record import EvaluationRecord
from bench.training.result import TrainingResult, Validation

#: Increased when a file changes in a way that older readers do not understand.
SCHEMA_VERSION = 3
#: Increased when training produces different numbers: cells of different protocols have different ids.
PROTOCOL_VERSION = 4

MAX_MESSAGE = 200  # characters of an error message

CellId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Count = Annotated[int, Field(ge=0)]


class Status(StrEnum):
    """State of a cell."""

    DONE = "done"  # trained and evaluated
    INCOMPLETE = "incomplete"  # training or evaluation was interrupted, or more metrics were asked for
    FAILED = "failed"
    SKIPPED = "skipped"  # the method does not support the data set
    MISSING = "missing"


class Record(BaseModel):
    """An immutable JSON record. Unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class Component(Record):
    """A KL-weight schedule or KL term: its name in expressions, and its settings."""

    name: str
    settings: dict[str, JsonValue]


class MethodRecord(Record):
    """A method with its settings, and what a report prints about it."""

    name: str
    """Name of the method's file."""
    expression: str
    """Canonical method expression: the name of the table row."""
    config: dict[str, JsonValue]
    """The method's settings, defaults included."""
    schedule: Component | None = None
    """KL-weight schedule attached with ``+``; None: the method's default."""
    kl_term: Component | None = None
    """KL term attached with ``+``; None: the method's own."""
    lr_scale: float = 1.0
    """Factor of the preset's learning rate, set with ``+lr``."""
    revision: int = 1
    """Increased by the method's author when its numbers change."""
    title: str = ""
    """Name in papers; empty: ``name``."""
    summary: str = ""
    citation: str = ""
    about: str = ""
    """Documentation of the method's file."""
    family: str = ""
    """Determines the colour in figures."""
    marker: str = ""
    """Shape in figures; empty: chosen by ``name``."""
    order: float = 0.0
    """Position in the tables."""
    baseline: bool = False
    """Whether costs and differences refer to this method."""
    footnotes: dict[str, str] = {}
    """Column → why the method has no value there, or one of another meaning."""
    notes: tuple[str, ...] = ()


class SchemaVersionError(UserError):
    """A record of another schema version."""


class CellFile(Record):
    """Version and cell of a file."""

    schema_version: Literal[3] = SCHEMA_VERSION  # type: ignore[assignment]
    cell_id: CellId

    @field_validator("schema_version", mode="before")
    @classmethod
    def check_version(cls, version: object) -> object:
        """Raise ``SchemaVersionError``, which pydantic does not catch, for another version."""
        if type(version) is int and version != SCHEMA_VERSION:
            reader = "a newer version" if version > SCHEMA_VERSION else "an older version"
            raise SchemaVersionError(
                f"schema version {version}, which {reader} of the harness reads (this one reads {SCHEMA_VERSION}): "
                "use that version, or another --out"
            )
        return version


class CellConfig(CellFile):
    """``config.json``: everything that determines a cell's numbers, and what a report needs to know about it."""

    protocol_version: int = PROTOCOL_VERSION
    method: MethodRecord
    dataset: DataInfo
    preset: str
    preset_notes: tuple[str, ...] = ()
    """Differences from the published protocol."""
    model: ModelConfig
    train: TrainConfig
    precision: str
    """Arithmetic of the networks in training and validation."""
    device: str
    seed: Count
    """Repetition, from 0."""
    base_seed: int
    """Seed of the run, from which all others are derived."""

    @property
    def scaled_train(self) -> TrainConfig:
        """Training settings with the learning rate that the method is trained with."""
        return replace(self.train, lr=self.train.lr * self.method.lr_scale)

    @property
    def name(self) -> str:
        """Method expression and seed, as in progress lines and error messages."""
        return f"{self.method.expression} seed {self.seed}"


class Failure(Record):
    """Why training or evaluation failed."""

    reason: str
    traceback: str


class ResultRecord(CellFile):
    """``result.json``: how training ended."""

    status: Literal["running", "ok", "failed", "skipped"] = "running"
    """``ok``: trained; ``skipped``: the method does not support this data set."""
    attempt: int = 1
    reason: str | None = None
    """Why training failed, or why the cell was skipped."""
    traceback: str | None = None
    provenance: Provenance | None = None
    cells_per_device: int = 1
    """How many cells shared the device during training; seconds compare only between equal numbers."""
    code: dict[str, str] = {}
    """Module of the method, KL term, model or likelihood → digest of its code when training was last started."""
    training: TrainingResult | None = None
    evaluation_failure: Failure | None = None
    """Why the evaluation of the trained cell failed."""

    @property
    def failure(self) -> str | None:
        """Why the cell failed; None if it did not."""
        if self.status == "failed":
            return self.reason or "unknown reason"
        return self.evaluation_failure.reason if self.evaluation_failure else None


class EvaluationFile(CellFile):
    """``evaluation.json``: metrics on the test set, and the settings that they were measured with."""

    evaluation: EvaluationRecord


class Attempts(Record):
    """``attempts.json``: the last run that worked on the cell."""

    run_id: str = ""
    attempt: Count = 0
    """How often that run started the cell."""
    finished: bool = True
    """Whether that run is done with the cell, successfully or not."""
    update: Count = 0
    """Decoder updates at the last checkpoint of that run; 0 before its first."""


class BundledFile(Record):
    """A file of a results bundle."""

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Record):
    """``manifest.json``: the first file of a results bundle (``bench.experiment.bundles``)."""

    bundle_version: Literal[1] = 1
    harness: str
    """Version of the harness."""
    schema_version: int = SCHEMA_VERSION
    """Version of the cells' JSON files."""
    protocol_version: int = PROTOCOL_VERSION
    """Version of the protocol of all cells."""
    cells: Count
    files: dict[str, BundledFile]
    """Path in the output folder → size and hash."""


R = TypeVar("R", bound=BaseModel)


def parse(kind: type[R], text: str | bytes) -> R:
    """Return the record in a JSON text.

    Raise ``SchemaVersionError`` for a record of another schema version, and ``ValueError`` with a one-line reason for
    anything else that is not a record of this kind.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(first_error(error)[:MAX_MESSAGE]) from error


def to_json(record: BaseModel) -> str:
    """Return a record as the text of its file, with NaN and infinities as null."""
    return record.model_dump_json(indent=1) + "\n"


def identify(config: CellConfig) -> str:
    """Return the cell id: a hash of everything that determines the cell's numbers."""
    record = config.model_dump(mode="json")
    method = record["method"]
    identity = {key: record[key] for key in ("precision", "device", "protocol_version")}
    identity |= {
        "model": model_identity(record["model"]),
        "train": training_identity(record["train"]),
        "method": {key: method[key] for key in ("name", "config", "schedule", "kl_term", "revision")},
        "data": [config.dataset.name, config.dataset.fingerprint],  # seeds are derived from the name
        "seed": [config.base_seed, config.seed],
    }
    if config.method.lr_scale != 1.0:
        identity["lr_scale"] = config.method.lr_scale
    return short_hash(identity)


def json_schema() -> dict[str, Any]:
    """Return one JSON Schema for all files: ``docs/schema.json``."""
    from pydantic.json_schema import models_json_schema

    kinds: list[type[BaseModel]] = [CellConfig, ResultRecord, EvaluationFile, Validation, Attempts, Manifest]
    title = "Files of a cell, and the manifest of a bundle"
    _, schema = models_json_schema([(kind, "serialization") for kind in kinds], title=title)
    return schema
