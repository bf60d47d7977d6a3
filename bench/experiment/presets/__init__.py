"""Presets: the TOML files in this folder, read into typed settings. Imports no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.core.config import MODELS, SECTIONS, TrainConfig, build, suggest, with_overrides
from bench.core.errors import UserError
from bench.evaluation.config import EvaluationConfig

PRESETS = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """A protocol: model sizes, training and evaluation for one modality."""

    name: str
    summary: str
    seeds: int
    notes: tuple[str, ...]
    model: Any
    train: TrainConfig
    evaluation: EvaluationConfig


def preset_names() -> list[str]:
    """The presets, by growing cost."""
    order = ["quick", "small", "paper"]
    return sorted((path.stem for path in PRESETS.glob("*.toml")), key=lambda name: (order + [name]).index(name))


def load_preset(
    name: str, modality: str, overrides: Mapping[str, Mapping[str, Any]] | None = None, protocol: str = ""
) -> Preset:
    """A preset's protocol for a modality, with ``overrides`` by section (``model``, ``train``, ``evaluation``).

    ``protocol`` names a part of the preset whose settings go before the modality's, for data that ask for their own.
    """
    if name not in preset_names():
        raise UserError(f"unknown preset '{name}': {suggest(name, preset_names())}")
    record = _preset_record(name)
    if modality not in record:
        raise UserError(f"preset '{name}' has no models for {modality} data")
    own, shared, changes = record.get(protocol, {}), record[modality], overrides or {}
    notes = list(own.get("notes", shared.get("notes", [])))

    def values(section: str) -> tuple[dict[str, Any], str]:
        return {**shared.get(section, {}), **own.get(section, {})}, f"preset {name}, [{protocol or modality}.{section}]"

    evaluation = EvaluationConfig.build(*values("evaluation")).with_overrides(changes.get("evaluation", {}))
    training = {}
    for section, cls in (("model", MODELS[modality]), ("train", TrainConfig)):
        chosen = build(cls, *values(section))
        changed = with_overrides(chosen, changes.get(section, {}), section)
        notes += [
            f"{section}.{f.name} = {getattr(changed, f.name)} (preset: {getattr(chosen, f.name)})"
            for f in fields(cls)
            if getattr(changed, f.name) != getattr(chosen, f.name)
        ]
        training[section] = changed
    return Preset(name, record["summary"], record["seeds"], tuple(notes), **training, evaluation=evaluation)


def _preset_record(name: str) -> dict[str, Any]:
    """What a preset's file holds; ``UserError`` where that is no preset."""
    path = PRESETS / f"{name}.toml"
    try:
        record = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the preset {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no preset ({error}); repair it or remove it") from error
    parts = [part for key, part in record.items() if key not in ("summary", "seeds", "notes")]
    sections = [part.get(name, {}) for part in parts if isinstance(part, dict) for name in SECTIONS]
    notes = [part.get("notes", []) for part in (record, *parts) if isinstance(part, dict)]
    if not (
        isinstance(record.get("summary"), str)
        and type(record.get("seeds")) is int
        and record["seeds"] > 0
        and all(isinstance(part, dict) for part in (*parts, *sections))
        and all(isinstance(some, list) and all(isinstance(note, str) for note in some) for some in notes)
    ):
        raise UserError(f"{path} is no preset: it has a summary, seeds, and parts with notes and {', '.join(SECTIONS)}")
    return record
