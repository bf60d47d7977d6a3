"""One stored cell as its files describe it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core.config import training_identity
from bench.evaluation.record import EvaluationRecord
from bench.evaluation.registry import group_of_metric
from bench.experiment.cell_folder import CellFolder
from bench.experiment.schema import PROTOCOL_VERSION, CellConfig, ResultRecord, Status, identify
from bench.experiment.stored_evaluation import Examples, read_examples
from bench.training.result import Validation


@dataclass(frozen=True)
class CellRecord:
    """The records of one stored cell."""

    folder: Path
    config: CellConfig
    result: ResultRecord | None
    evaluation: EvaluationRecord | None
    history: list[Validation]

    @property
    def status(self) -> Status:
        if self.result is None:
            return Status.MISSING
        if self.result.status == "ok" and self.evaluation:
            return Status.DONE
        if self.result.status == "skipped":
            return Status.SKIPPED
        return Status.FAILED if self.result.failure else Status.INCOMPLETE

    @property
    def trained(self) -> bool:
        return self.result is not None and self.result.status == "ok"

    @property
    def reason(self) -> str | None:
        """Why the cell failed or was skipped."""
        return (self.result.failure or self.result.reason) if self.result else None

    @property
    def replicate(self) -> str:
        """Base seed and repetition: cells with equal ones are compared as pairs."""
        return f"{self.config.base_seed}/{self.config.seed}"

    @property
    def protocol(self) -> dict[str, Any]:
        """What the cells of one table have in common, apart from their evaluation, as JSON."""
        config = self.config.model_dump(mode="json")
        return {
            "data": config["dataset"]["fingerprint"],
            "train": training_identity(config["train"]),
            **{key: config[key] for key in ("model", "precision", "device", "protocol_version")},
        }

    @property
    def group_settings(self) -> dict[str, dict[str, Any]]:
        """Metric group → the settings that it was measured with."""
        groups = self.evaluation.groups if self.evaluation else {}
        return {name: group.settings for name, group in groups.items()}

    def differing_groups(self, settings: Mapping[str, dict[str, Any]]) -> list[str]:
        """Return the metric groups that were measured with other settings than ``settings``."""
        return [name for name, used in self.group_settings.items() if used != settings.get(name, used)]

    def metrics(self, settings: Mapping[str, dict[str, Any]]) -> dict[str, float | int | bool | None]:
        """Return the metrics of a finished cell, without groups that were measured with other settings."""
        if self.evaluation is None or self.status is not Status.DONE:
            return {}
        differing, group = self.differing_groups(settings), group_of_metric()
        return {name: value for name, value in self.evaluation.metrics.items() if group.get(name) not in differing}

    @cached_property
    def examples(self) -> Examples:
        """Values per test example, read when first used."""
        return read_examples(self.folder, self.evaluation.metrics if self.evaluation else {})

    @property
    def as_published(self) -> bool:
        """Whether the preset is ``paper`` without changes."""
        return self.config.preset == "paper" and not self.config.preset_notes


def read(folder: CellFolder) -> CellRecord:
    """Return a stored cell.

    Raise ``ValueError`` with a one-line reason if a file is damaged, and ``SchemaVersionError`` for another schema
    version.
    """
    try:
        config = folder.config
        record = CellRecord(folder.path, config, folder.result(), folder.evaluation(), folder.history())
    except OSError as error:
        name = Path(error.filename or folder.path).name
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
    if config.protocol_version == PROTOCOL_VERSION and config.cell_id != identify(config):
        raise ValueError("the cell_id in config.json does not match its content")
    return record


def readable(folders: Iterable[CellFolder]) -> tuple[list[CellRecord], list[tuple[CellFolder, str]]]:
    """Return the cells in these folders, and the folders that are not read, with the reason.

    A copy of another cell's folder is not read, because that cell would count twice.
    """
    cells, unread = [], []
    first: dict[tuple[str, ...], Path] = {}
    for folder in folders:
        try:
            cell = read(folder)
            if folder.path.name != (name := f"seed-{cell.config.seed}-{cell.config.cell_id}"):
                raise ValueError(f"config.json is of {name}")
            key = *folder.path.parts[-4:-2], cell.config.method.expression, name
            if (original := first.setdefault(key, folder.path)) != folder.path:
                raise ValueError(f"the same cell as {original.parent.name}/{original.name}")
            cells.append(cell)
        except ValueError as error:
            unread.append((folder, str(error)))
    return cells, unread
