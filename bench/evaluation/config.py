"""Settings of an evaluation. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from bench.core.config import build, json_settings, suggest, with_overrides
from bench.core.errors import UserError
from bench.evaluation.record import EVALUATION_VERSION, BasicSettings, EvaluationRecord
from bench.evaluation.registry import metric_groups


@dataclass(frozen=True)
class EvaluationConfig(BasicSettings):
    """How a trained cell is evaluated. Not part of a cell's identity: another evaluation needs no other training.

    ``metrics`` names the metric groups to measure, ``groups`` holds the settings of every group. On the command line
    and in presets the names are flat: ``refined_iw_examples`` is the setting ``examples`` of the group ``refined_iw``.
    """

    metrics: tuple[str, ...] = field(
        default_factory=lambda: tuple(name for name, group in metric_groups().items() if group.default)
    )
    groups: Mapping[str, Any] = field(
        default_factory=lambda: {name: group.settings() for name, group in metric_groups().items()}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.metrics:
            if name not in self.groups:
                raise ValueError(f"'metrics' has no group '{name}': {suggest(name, self.groups)}")

    @classmethod
    def build(cls, values: Mapping[str, Any], where: str = "evaluation") -> EvaluationConfig:
        """Return the defaults with ``values``, by flat name."""
        return cls().with_overrides(values, where)

    def with_overrides(self, values: Mapping[str, Any], where: str = "evaluation") -> EvaluationConfig:
        """Return a copy with some settings changed, by flat name.

        Raise ``UserError``, beginning with ``where``, for unknown names, wrong types and values out of range.
        """
        places = {flat: place for flat, place, _ in self._flat()}
        changes: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for flat, value in values.items():
            if flat not in places:
                raise UserError(f"{where} has no setting '{flat}': {suggest(flat, places)}")
            group, name = places[flat]
            changes[group][name] = value
        basic = changes.pop("", {})
        groups = {
            group: with_overrides(self.groups[group], changed, f"{where}, metric group {group}")
            for group, changed in changes.items()
        }
        return with_overrides(replace(self, groups={**self.groups, **groups}), basic, where)

    def with_stored(self, record: EvaluationRecord) -> EvaluationConfig:
        """Return a copy with the settings of a stored evaluation: of its basic metrics, and of the groups it has."""
        stored = {
            name: build(type(self.groups[name]), group.settings, f"evaluation.json, metric group {name}")
            for name, group in record.groups.items()
            if name in self.groups
        }
        return replace(self, **vars(record.settings), groups={**self.groups, **stored})

    def to_flat(self) -> dict[str, Any]:
        """Return every setting by flat name."""
        return {flat: value for flat, _, value in self._flat()}

    def _flat(self) -> list[tuple[str, tuple[str, str], Any]]:
        """Return flat name, (group or "", name) and value of every setting."""
        hidden = ("groups", "split")
        basic = [(f.name, ("", f.name), getattr(self, f.name)) for f in fields(self) if f.name not in hidden]
        return basic + [
            (f"{group}_{f.name}", (group, f.name), getattr(settings, f.name))
            for group, settings in self.groups.items()
            for f in fields(settings)
        ]

    @property
    def basic(self) -> BasicSettings:
        return BasicSettings(**{f.name: getattr(self, f.name) for f in fields(BasicSettings)})

    def group(self, name: str) -> dict[str, Any]:
        """Return a group's settings as its record holds them."""
        return json_settings(self.groups[name])

    def missing(self, record: EvaluationRecord | None) -> tuple[str, ...]:
        """Return what an evaluation lacks of these settings: "basic" and all groups, some groups, or nothing."""
        if record is None or record.version != EVALUATION_VERSION or record.settings != self.basic:
            return ("basic", *self.metrics)
        measured = {name: group.settings for name, group in record.groups.items()}
        lacking = [name for name in self.metrics if measured.get(name) != self.group(name)]
        return tuple(dict.fromkeys([*lacking, *record.pending]))
