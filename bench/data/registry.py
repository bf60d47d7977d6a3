"""Find and prepare data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.core.config import MODELS, suggest
from bench.core.errors import UserError
from bench.core.plugins import REPAIR, find_modules, load_module, module_path
from bench.core.syntax import parse_call, parse_value
from bench.data import user_data
from bench.data.cache import find_by_fingerprint
from bench.data.dataset import SPLITS, DataInfo, Prepared


def prepare(expression: str, data_dir: Path | None, cache: Path) -> Prepared:
    """The data set that an expression names, ``name`` or ``name(setting=value, …)``, or that lies at a path."""
    path = Path(expression)
    like_a_path = os.path.exists(expression) or len(path.parts) > 1 or path.suffix == ".npz"
    if expression not in dataset_names() and like_a_path:
        data = user_data.prepare(path, cache)
        if data.info.name in dataset_names():
            use = f"--dataset {data.info.name} --data-dir {path.resolve().parent}"
            raise UserError(f"{expression} has the name of a built-in data set: rename it, or read it by {use}")
        return data
    name, given = parse_call(expression, expression)
    module = dataset(name)
    known = getattr(module, "SETTINGS", {})
    for key in given:
        if key not in known:
            raise UserError(f"data set '{name}' has no setting '{key}': {suggest(key, known)}")
    settings = {key: parse_value("|".join(value)) for key, value in given.items()}
    try:
        data = module.prepare(data_dir, cache, **settings)
        fault = data_fault(data)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"data set '{name}' cannot be prepared: {type(error).__name__}: {error}") from error
    if fault:
        raise UserError(f"data set '{name}': prepare must give a bench.datasets.Prepared: {fault}")
    return data


def prepare_again(info: DataInfo, data_dir: Path | None, cache: Path) -> Prepared:
    """The very data that a stored cell was trained on: from the cache, or prepared as its name says."""
    if prepared := find_by_fingerprint(info.fingerprint, cache):
        return prepared
    if info.name in dataset_names():
        prepared = prepare(info.name, data_dir, cache)
        if prepared.info.fingerprint == info.fingerprint:
            return prepared
    raise UserError(
        f"the data of this cell, {info.title} ({info.fingerprint[:12]}), are not in the cache {cache}: "
        "prepare them by 'python -m bench.run --dataset … --dry-run', as they were given when it was trained"
    )


DATASETS_GROUP = "posterior_collapse_bench.datasets"


@cache
def dataset_names() -> tuple[str, ...]:
    return tuple(sorted(find_modules("bench.data.datasets", DATASETS_GROUP)))


def dataset(name: str) -> ModuleType:
    """The module of a data set: ``SUMMARY``, ``NEEDS_DOWNLOAD``, ``prepare``."""
    module = load_module(name, "bench.data.datasets", DATASETS_GROUP, "data set")
    lacking = [
        what
        for what, there in {
            "SUMMARY (a line of text)": isinstance(getattr(module, "SUMMARY", None), str),
            "NEEDS_DOWNLOAD (True or False)": isinstance(getattr(module, "NEEDS_DOWNLOAD", None), bool),
            "SETTINGS (a dictionary of defaults)": isinstance(getattr(module, "SETTINGS", {}), Mapping),
            "prepare (a function)": callable(getattr(module, "prepare", None)),
        }.items()
        if not there
    ]
    if lacking:
        raise UserError(f"data set '{name}' ({module_path(module)}) lacks {', '.join(lacking)}; {REPAIR}")
    return module


def data_fault(data: Any) -> str | None:
    """What is wrong with what a data set's ``prepare`` gave, or None; its arrays are looked at when they are loaded."""
    if not isinstance(data, Prepared):
        return f"{type(data).__name__} is none"
    if not isinstance(info := data.info, DataInfo):
        return f"its info is {type(info).__name__}, not a DataInfo"
    try:
        again = DataInfo.from_json(json.loads(json.dumps(info.to_json())))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return f"its info cannot be stored ({error})"
    if again.modality not in MODELS:
        return f"its modality is {again.modality!r}, not one of {', '.join(MODELS)}"
    if {*again.sizes} != {*SPLITS} or not all(again.sizes.values()):
        return f"its sizes are {dict(again.sizes)}, not those of {', '.join(SPLITS)}, at least one example each"
    if not isinstance(data.path, Path) or not data.path.is_file():
        return f"{data.path} is no file"
    return None
