"""Presets: the TOML files in this folder, read into typed settings. Imports no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from bench.core.config import MODELS, ImageModelConfig, TrainConfig, build, suggest, with_overrides
from bench.core.errors import UserError, first_error
from bench.evaluation.config import EvaluationConfig

PRESETS = Path(__file__).parent
BY_COST = ("quick", "small", "paper")


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
    collapse_by_design: bool = False  # chosen so that the basic VAE collapses


class _Part(BaseModel):
    """Settings for one modality, or for the data sets that name it as their protocol."""

    model_config = ConfigDict(extra="forbid")

    notes: list[str] | None = None
    collapse_by_design: bool | None = None
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


class _PresetFile(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Part]

    summary: str
    seeds: PositiveInt


def preset_names(modality: str | None = None) -> list[str]:
    """Return the presets by increasing cost: all, or those with models for a modality."""
    names = sorted((path.stem for path in PRESETS.glob("*.toml")), key=lambda name: (*BY_COST, name).index(name))
    if modality is None:
        return names
    return [name for name in names if modality in _read(PRESETS / f"{name}.toml").__pydantic_extra__]


def load_preset(
    name: str, modality: str, overrides: Mapping[str, Mapping[str, Any]] | None = None, protocol: str = ""
) -> Preset:
    """Return a preset's protocol for a modality, with ``overrides`` by section (``model``, ``train``, ``evaluation``).

    ``protocol`` names a part of the preset that has precedence over the modality's, for data sets that need their own.
    """
    if name not in preset_names():
        raise UserError(f"unknown preset '{name}': {suggest(name, preset_names())}")
    file = _read(PRESETS / f"{name}.toml")
    if modality not in file.__pydantic_extra__:
        others = " or ".join(preset_names(modality))
        raise UserError(f"preset '{name}' has no protocol for {modality} data: use --preset {others}")
    shared, own = file.__pydantic_extra__[modality], file.__pydantic_extra__.get(protocol, _Part())
    notes = list((shared.notes or []) if own.notes is None else own.notes)
    where, changes = f"preset {name}, [{protocol or modality}", overrides or {}
    evaluation = EvaluationConfig.build(shared.evaluation | own.evaluation, f"{where}.evaluation]")
    _check_sections(changes, evaluation, MODELS[modality])
    training = {}
    for section, cls in (("model", MODELS[modality]), ("train", TrainConfig)):
        chosen = build(cls, getattr(shared, section) | getattr(own, section), f"{where}.{section}]")
        changed = with_overrides(chosen, changes.get(section, {}), section)
        notes += [
            f"{section}.{f.name} = {getattr(changed, f.name)} (preset: {getattr(chosen, f.name)})"
            for f in fields(cls)
            if getattr(changed, f.name) != getattr(chosen, f.name)
        ]
        training[section] = changed
    evaluation = evaluation.with_overrides(changes.get("evaluation", {}))
    by_design = shared.collapse_by_design if own.collapse_by_design is None else own.collapse_by_design
    return Preset(
        name,
        file.summary,
        file.seeds,
        tuple(notes),
        **training,
        evaluation=evaluation,
        collapse_by_design=bool(by_design),
    )


def fit_to_images(preset: Preset, shape: Sequence[int]) -> Preset:
    """Return the preset for images of this shape, with a note if they are not of the preset's size.

    Larger images are pooled. Smaller ones keep their size, and the model has that size.
    """
    model = preset.model
    if not isinstance(model, ImageModelConfig) or model.image_size == shape[-1]:
        return preset
    side, size = shape[-1], min(model.image_size, shape[-1])
    if size == side:
        note = f"images of {side}×{side}, smaller than the preset's {model.image_size}×{model.image_size}"
    else:
        block = "any ink in a block" if model.pooling == "any" and model.values != "intensity" else "mean of a block"
        note = f"images pooled from {side}×{side} to {size}×{size} ({block})"
    return replace(preset, model=replace(model, image_size=size), notes=(*preset.notes, note))


def _check_sections(changes: Mapping[str, Mapping[str, Any]], evaluation: EvaluationConfig, model: type) -> None:
    """Raise ``UserError`` for a setting that belongs to another section."""
    known = {"evaluation": {*evaluation.to_flat()}}
    known |= {section: {f.name for f in fields(cls)} for section, cls in (("model", model), ("train", TrainConfig))}
    for section, values in changes.items():
        for key in values.keys() - known[section]:
            if other := next((name for name, settings in known.items() if key in settings), None):
                raise UserError(f"{section} has no setting '{key}': did you mean {other}.{key}?")


def _read(path: Path) -> _PresetFile:
    try:
        return _PresetFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        reason = first_error(error) if isinstance(error, ValidationError) else error
        raise UserError(f"{path} is not a preset ({reason}); repair or remove it") from error
