"""Stored cells after training: which there are under a folder, and what it takes to run one again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, printable
from bench.core.provenance import command
from bench.data.cache import cache_dir
from bench.data.dataset import DataInfo
from bench.data.registry import prepare_stored
from bench.evaluation.config import EvaluationConfig
from bench.experiment.cell_folder import CellFolder
from bench.experiment.cell_record import read
from bench.experiment.presets import load_preset, preset_names


def finished_cells(paths: Iterable[Path]) -> list[CellFolder]:
    """The trained cells whose folders these are, or that are stored below them, each once.

    Those that cannot be read or are not trained are left out, with a line. ``UserError`` where there are none at all.
    """
    finished = []
    for folder in dict.fromkeys(folder for path in paths for folder in _below(path)):
        try:
            cell = read(folder)
        except ValueError as error:
            print(printable(f"left out: {folder.path} ({error})"))
            continue
        if cell.status in ("ok", "not evaluated"):
            finished.append(folder)
        else:
            print(printable(f"left out: {folder.path} ({cell.status})"))
    return finished


def _below(path: Path) -> list[CellFolder]:
    full = path.resolve()
    if (full / "config.json").exists():
        return [CellFolder(full)]
    folders = [folder for folder in full.glob("**/seed-*/") if "/." not in str(folder.relative_to(full))]
    if not folders:
        raise UserError(f"no stored cells at '{path}': give a cell's folder, or the folder that --out named")
    return [CellFolder(folder) for folder in sorted(folders)]


def check_device(folders: Iterable[CellFolder]) -> None:
    """Refuse what was trained on a GPU where there is none: its numbers are those of its device."""
    import torch

    for folder in folders:
        if folder.config["device"] == "cuda" and not torch.cuda.is_available():
            raise UserError(f"{folder.path} was trained on a GPU, and none is available to torch here")


def evaluation_as_stored(folder: CellFolder) -> EvaluationConfig:
    """The settings with which a cell was judged: those of its basic metrics and of every group that it has."""
    record = folder.evaluation_record()
    if record is None:
        raise UserError(f"{folder.path} has no evaluation")
    stored = EvaluationConfig().with_stored(record)
    return replace(stored, metrics=tuple(name for name in record.groups if name in stored.groups))


def evaluation_of_preset(
    folder: CellFolder, overrides: Mapping[str, Mapping[str, Any]], groups: Sequence[str] | None
) -> EvaluationConfig:
    """The settings with which the cell was judged, of what it lacks those that its preset has, with ``overrides``.

    ``groups``: those wanted, by default the preset's.
    """
    config = folder.config
    preset = config["preset"] if config["preset"] in preset_names() else preset_names()[0]
    data = described(folder)
    wanted = load_preset(preset, data.modality, overrides, data.protocol).evaluation
    wanted = replace(wanted, metrics=tuple(groups)) if groups else wanted
    record = folder.evaluation_record()
    if record is None:
        return wanted
    return wanted.with_stored(record).with_overrides(overrides.get("evaluation", {}), str(folder.path))


def described(folder: CellFolder) -> DataInfo:
    """What a cell says of its data set; ``UserError`` where this code cannot read it."""
    try:
        return DataInfo.from_json(folder.config["dataset"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder.path}: its config.json describes no data set that is known here ({error})") from error


def task(folder: CellFolder, evaluation: EvaluationConfig, data_dir: Path | None, threads: int = 1) -> dict[str, Any]:
    """What a worker needs to do what is missing of a stored cell, one cell at a time on its device."""
    data = prepare_stored(described(folder), data_dir, cache_dir())
    return {
        "config": folder.config,
        "folder": str(folder.path.resolve()),
        "data": str(data.path.resolve()),
        "evaluation": evaluation.to_flat(),
        "threads": threads,
        "shared": 1,
        "gpu_share": 0.0,
        "command": command(),
        "run": "alone",
        "marker": str(folder.path.resolve()),
        "anew": "",
    }


def out_of(folder: CellFolder) -> Path | None:
    """The folder of results that a cell belongs to, if it lies in one: in ``OUT/runs/<data set>/<preset>/<method>``."""
    parents = folder.path.parents
    return parents[4] if len(parents) > 4 and parents[3].name == "runs" else None


def has_weights(folder: CellFolder) -> bool:
    return (folder.path / "best.pt").exists()
