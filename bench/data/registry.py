"""Find and prepare data sets: built-in ones, those of other packages, and the user's files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from bench.core.config import convert, suggest
from bench.core.errors import UserError
from bench.core.files import expand_user
from bench.core.plugins import Registry
from bench.core.syntax import parse_call, parse_value
from bench.data import user_data
from bench.data.cache import find_by_fingerprint
from bench.data.dataset import DataInfo, Prepared

REGISTRY = Registry("data set", "bench.data.datasets", "posterior_collapse_bench.datasets")


#: ``name``, ``name:argument``, ``name(settings)`` or ``name:argument(settings)``.
_EXPRESSION = re.compile(r"(\w+)(?::([^()]+))?(?:\((.*)\))?", re.DOTALL)


def dataset_names() -> tuple[str, ...]:
    """Return the names of all data sets in alphabetical order."""
    return REGISTRY.names()


def load_dataset_module(name: str) -> ModuleType:
    """Import the file of a data set; ``UserError`` if it cannot be imported or a definition is missing."""
    module = REGISTRY.load(name)
    defined = {
        "SUMMARY (a string)": isinstance(getattr(module, "SUMMARY", None), str),
        "NEEDS_DOWNLOAD (a bool)": isinstance(getattr(module, "NEEDS_DOWNLOAD", None), bool),
        "SETTINGS (a dictionary of defaults)": isinstance(getattr(module, "SETTINGS", {}), Mapping),
        "prepare (a function)": callable(getattr(module, "prepare", None)),
    }
    if missing := [definition for definition, ok in defined.items() if not ok]:
        raise REGISTRY.defect(name, module, f"must define {', '.join(missing)}")
    return module


def data_folder(data_dir: Path | None) -> Path | None:
    """Return ``data_dir``, or else the folder in BENCH_DATA_DIR, or None. The folder must exist."""
    named = data_dir or os.environ.get("BENCH_DATA_DIR")
    folder = expand_user(named) if named else None
    if folder and not folder.is_dir():
        raise UserError(f"data folder '{folder}' does not exist: give another with --data-dir or BENCH_DATA_DIR")
    return folder


def prepare(expression: str, data_dir: Path | None, cache: Path) -> Prepared:
    """Prepare the data set ``name``, ``name(setting=value, …)``, or the user's data at a path.

    ``hf:NAME`` and ``hf:NAME(setting=value, …)`` set the setting ``name`` of the data set hf.
    """
    match = _EXPRESSION.fullmatch(expression)
    if not match or match[1] not in dataset_names():
        path = expand_user(expression)
        if len(path.parts) > 1 or path.suffix == ".npz" or os.path.exists(expression):
            return _user_data(path, expression, cache)
    elif match[2]:
        expression = f"{match[1]}({', '.join(filter(None, (f'name={match[2]}', match[3])))})"
    call = parse_call(expression)
    name, module = call.name, load_dataset_module(call.name)
    known = getattr(module, "SETTINGS", {})
    for key in call.settings:
        if key not in known:
            raise UserError(f"data set '{name}' has no setting '{key}': {suggest(key, known)}")
    settings = {key: convert(parse_value("|".join(values)), type(known[key])) for key, values in call.settings.items()}
    try:
        data = module.prepare(data_dir, cache, **settings)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"data set '{name}' cannot be prepared: {type(error).__name__}: {problem}") from error
    if not isinstance(data, Prepared):
        raise UserError(f"data set '{name}': prepare must return a bench.data.dataset.Prepared, not {data!r}")
    return data


def _user_data(path: Path, expression: str, cache: Path) -> Prepared:
    data = user_data.prepare(path, cache)
    if data.info.name in dataset_names():
        use = f"--dataset {data.info.name} --data-dir {path.resolve().parent}"
        raise UserError(f"{expression} has the name of a built-in data set: rename it, or use {use}")
    return data


def prepare_stored(info: DataInfo, data_dir: Path | None, cache: Path) -> Prepared:
    """Return the data on which a stored cell was trained: from the cache, or prepared by its name."""
    if prepared := find_by_fingerprint(info.fingerprint, cache):
        return prepared
    if info.name in dataset_names():
        prepared = prepare(info.name, data_dir, cache)
        if prepared.info.fingerprint == info.fingerprint:
            return prepared
    raise UserError(
        f"the data of this cell, {info.title} ({info.fingerprint[:12]}), are not in the cache {cache}: prepare them "
        "with 'python -m bench run --dataset … --dry-run' and the arguments used for training"
    )
