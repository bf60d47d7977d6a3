"""One stored cell as its files describe it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.core.config import training_identity
from bench.evaluation.registry import group_of_metric
from bench.experiment import examples
from bench.experiment.cell_folder import CellFolder
from bench.experiment.schema import problem, problem_of_history


@dataclass(frozen=True)
class CellRecord:
    """One stored cell, whatever its state: records as ``bench.store`` describes them."""

    folder: Path
    config: dict
    result: dict | None
    evaluation: dict | None
    history: list[dict]

    @property
    def status(self) -> str:
        """``ok`` (trained and evaluated), ``failed``, ``skipped``, ``unfinished`` or ``not evaluated``."""
        if self.result is None:
            return "unfinished"
        if self.result["status"] != "ok":
            return "unfinished" if self.result["status"] == "running" else self.result["status"]
        return "ok" if self.evaluation else "not evaluated"

    @property
    def replicate(self) -> str:
        """What two cells must share to be compared as a pair: base seed and repetition."""
        return f"{self.config['base_seed']}/{self.config['seed']}"

    @property
    def protocol(self) -> dict:
        """What the cells of one table have in common, but for how they were evaluated."""
        return {
            "data": self.config["dataset"]["fingerprint"],
            "train": training_identity(self.config["train"]),
            **{key: self.config[key] for key in ("model", "precision", "device", "protocol_version")},
        }

    @property
    def settings(self) -> dict[str, dict]:
        """Of every optional group that the evaluation has, its settings."""
        return {name: group["settings"] for name, group in ((self.evaluation or {}).get("groups") or {}).items()}

    def differing_groups(self, settings: Mapping[str, dict]) -> list[str]:
        """Return the optional metric groups that this cell has with other settings than ``settings``."""
        return [name for name, mine in self.settings.items() if mine != settings.get(name, mine)]

    def metrics(self, settings: Mapping[str, dict]) -> dict[str, Any]:
        """The metrics of a finished cell, without those of groups judged with other settings than these."""
        if self.evaluation is None or self.status != "ok":
            return {}
        others, groups = self.differing_groups(settings), group_of_metric()
        return {name: value for name, value in self.evaluation["metrics"].items() if groups.get(name) not in others}

    @cached_property
    def examples(self) -> examples.Examples:
        """Its values per test example, read when first asked for."""
        return examples.read(self.folder, self.evaluation["metrics"] if self.evaluation else {})

    @property
    def as_published(self) -> bool:
        """Whether it was trained by the published protocol: the preset ``paper``, nothing of it changed."""
        return self.config["preset"] == "paper" and not self.config.get("preset_notes")


def read(folder: CellFolder) -> CellRecord:
    """One cell. ``ValueError``, which says why in one line, where its records are not those of one cell."""
    files: dict[str, Callable[[], Any]] = {
        "config.json": lambda: folder.config,
        "result.json": folder.result,
        "evaluation.json": folder.evaluation,
        "history.jsonl": lambda: folder.history(whole=True),
    }
    records = []
    for name, content in files.items():
        try:
            records.append(content())
        except FileNotFoundError as error:
            raise ValueError(f"{name} is not there") from error
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{name} is damaged") from error
    config, result, evaluation, history = records
    if wrong := problem(config, result, evaluation):
        raise ValueError(wrong)
    if wrong := problem_of_history(history):
        raise ValueError(f"history.jsonl {wrong}")
    return CellRecord(folder.path, config, result, evaluation, history)


def readable(folders: Iterable[CellFolder]) -> tuple[list[CellRecord], list[tuple[CellFolder, str]]]:
    """The cells in these folders, and those folders that do not count, with the reason.

    A copy of another cell's folder would count that cell twice.
    """
    found, left = [], []
    seen: dict[tuple[str, ...], Path] = {}
    for folder in folders:
        try:
            cell = read(folder)
            if folder.path.name != (name := f"seed-{cell.config['seed']}-{cell.config['cell_id']}"):
                raise ValueError(f"config.json is that of {name}")
            key = *folder.path.parts[-4:-2], cell.config["method"]["expression"], name
            if (first := seen.setdefault(key, folder.path)) != folder.path:
                raise ValueError(f"the same cell as {first.parent.name}/{first.name}")
            found.append(cell)
        except ValueError as error:
            left.append((folder, str(error)))
    return found, left
