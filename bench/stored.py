"""Stored cells after training: which there are under a folder, and what it takes to run one again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.config import EvaluationConfig, build, load_preset, preset_names
from bench.datasets import DataInfo, cache_dir
from bench.errors import UserError
from bench.expressions import prepare_again
from bench.provenance import command
from bench.store import CellFolder


def cells_at(path: Path) -> list[CellFolder]:
    """The cell whose folder this is, or every cell stored below it. ``UserError`` where there is none."""
    path = path.resolve()
    if (path / "config.json").exists():
        return [CellFolder(path)]
    if found := [CellFolder(config.parent) for config in sorted(path.glob("**/seed-*/config.json"))]:
        return found
    raise UserError(f"no stored cells at '{path}': give a cell's folder, or the folder that --out named")


def evaluation_as_stored(folder: CellFolder) -> EvaluationConfig:
    """The settings with which a cell was judged: those of its basic metrics and of every group that it has."""
    record = folder.evaluation()
    if record is None:
        raise UserError(f"{folder.path} has no evaluation")
    groups = record.get("groups", {})
    settings = {f"{name}_{key}": value for name, about in groups.items() for key, value in about["settings"].items()}
    return build(EvaluationConfig, {**record["config"], "metrics": [*groups], **settings}, f"{folder.path.name}")


def evaluation_of_preset(
    folder: CellFolder, overrides: Mapping[str, Mapping[str, Any]], groups: Sequence[str] | None
) -> EvaluationConfig:
    """The settings that the cell's preset has now, with ``overrides``; the basic ones otherwise as the cell was judged.

    ``groups``: those wanted, by default the preset's.
    """
    config = folder.config
    preset = config["preset"] if config["preset"] in preset_names() else preset_names()[0]
    data = DataInfo.from_json(config["dataset"])
    wanted = load_preset(preset, data.modality, overrides, data.protocol).evaluation
    wanted = replace(wanted, metrics=tuple(groups)) if groups else wanted
    record = folder.evaluation()
    return wanted if record is None else replace(wanted, **record["config"] | overrides.get("evaluation", {}))


def task(folder: CellFolder, evaluation: EvaluationConfig, data_dir: Path | None, threads: int = 1) -> dict[str, Any]:
    """What a worker needs to do what is missing of a stored cell, one cell at a time on its device."""
    data = prepare_again(DataInfo.from_json(folder.config["dataset"]), data_dir, cache_dir())
    return {
        "config": folder.config,
        "folder": str(folder.path.resolve()),
        "data": str(data.path.resolve()),
        "evaluation": asdict(evaluation),
        "threads": threads,
        "shared": 1,
        "gpu_share": 0.0,
        "command": command(),
    }


def out_of(folder: CellFolder) -> Path:
    """The folder of results that a cell belongs to: it lies in ``OUT/runs/<data set>/<preset>/<method>``."""
    return folder.path.parents[4]


def with_weights(folders: Iterable[CellFolder]) -> tuple[list[CellFolder], list[CellFolder]]:
    """Cells that can be judged again, and finished cells whose weights are not there."""
    trained = [folder for folder in folders if folder.trained()]
    there = [folder for folder in trained if (folder.path / "best.pt").exists()]
    return there, [folder for folder in trained if folder not in there]
