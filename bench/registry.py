"""Finds methods and data sets. A file's presence is its registration; packages elsewhere register by entry point.

Names are known without importing anything; a module is imported when its method or data set is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING

from bench.config import suggest
from bench.errors import UserError

if TYPE_CHECKING:
    from bench.method import Method

#: Entry-point groups in which other packages name their modules: ``my_method = my_package.my_method``.
METHODS_GROUP = "posterior_collapse_bench.methods"
DATASETS_GROUP = "posterior_collapse_bench.datasets"


@cache
def method_names() -> tuple[str, ...]:
    return tuple(sorted(_modules("methods", METHODS_GROUP)))


@cache
def dataset_names() -> tuple[str, ...]:
    return tuple(sorted(_modules("bench.datasets", DATASETS_GROUP)))


@cache
def method(name: str) -> type[Method]:
    """The method class in the file (or entry point) of that name."""
    from bench.method import Method

    module = _load(name, "methods", METHODS_GROUP, "method")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(
            f"method '{name}': {module.__file__} must define one subclass of bench.method.Method, not {len(found)}"
        )
    found[0].name = name
    return found[0]


def dataset(name: str) -> ModuleType:
    """The module of a data set: ``SUMMARY``, ``NEEDS_DOWNLOAD``, ``prepare``."""
    return _load(name, "bench.datasets", DATASETS_GROUP, "data set")


def suites() -> dict[str, list[str]]:
    """Suite -> method expressions in table order. ``all`` is every method at its default."""
    classes = sorted((method(name) for name in method_names()), key=lambda cls: (cls.order, cls.name))
    result: dict[str, list[str]] = {}
    for cls in classes:
        for suite, expressions in cls.suites.items():
            result.setdefault(suite, []).extend(expressions)
    return result | {"all": [cls.name for cls in classes]}


def _modules(package: str, group: str) -> dict[str, str]:
    """Name -> module path, from the package's folder and from entry points."""
    path = importlib.import_module(package).__path__
    found = {m.name: f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if not m.ispkg and m.name[0] != "_"}
    for entry in entry_points(group=group):
        if entry.name in found:
            raise UserError(f"'{entry.name}' is registered twice: by {found[entry.name]} and by {entry.value}")
        found[entry.name] = entry.value
    return found


def _load(name: str, package: str, group: str, kind: str) -> ModuleType:
    modules = _modules(package, group)
    if name not in modules:
        raise UserError(f"unknown {kind} '{name}': {suggest(name, modules)}")
    try:
        return importlib.import_module(modules[name])
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{kind} '{name}' cannot be imported ({modules[name]}): {type(error).__name__}: {error}"
        ) from error
