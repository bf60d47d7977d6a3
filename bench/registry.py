"""Finds methods and data sets. A file's presence is its registration; packages elsewhere register by entry point.

Names are known without importing anything; a module is imported when its method or data set is asked for. One that is
broken is a ``UserError`` for whoever asks for it, and for nobody else.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
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

REPAIR = "repair it, move it out of the way, or name the others one by one"


@cache
def method_names() -> tuple[str, ...]:
    return tuple(sorted(_modules("methods", METHODS_GROUP)))


@cache
def dataset_names() -> tuple[str, ...]:
    return tuple(sorted(_modules("bench.datasets", DATASETS_GROUP)))


def method(name: str) -> type[Method]:
    """The method class in the file (or entry point) of that name."""
    found = _method(name)
    if isinstance(found, str):
        raise UserError(found)
    return found


@cache
def _method(name: str) -> type[Method] | str:
    """The class, or why it cannot be had: a module that fails is imported once."""
    from bench.contract import class_fault
    from bench.method import Method

    try:
        module = _load(name, "methods", METHODS_GROUP, "method")
    except UserError as error:
        return str(error)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        one = f"it must define one subclass of bench.method.Method, not {len(found)}"
        return f"method '{name}' ({_place(module)}): {one}; {REPAIR}"
    found[0].name = name
    if fault := class_fault(found[0]):
        return f"method '{name}' ({_place(module)}): {fault}; {REPAIR}"
    return found[0]


def broken() -> dict[str, str]:
    """Method -> why it cannot be had, of those that cannot."""
    return {name: why for name in method_names() if isinstance(why := _method(name), str)}


def dataset(name: str) -> ModuleType:
    """The module of a data set: ``SUMMARY``, ``NEEDS_DOWNLOAD``, ``prepare``."""
    module = _load(name, "bench.datasets", DATASETS_GROUP, "data set")
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
        raise UserError(f"data set '{name}' ({_place(module)}) lacks {', '.join(lacking)}; {REPAIR}")
    return module


def suites() -> dict[str, list[str]]:
    """Suite -> method expressions in table order. Every family is one, with the baseline before it; ``all`` is every
    method at its default. Those that are broken come last in it, so that whoever asks for all hears of them."""
    unusable = broken()
    usable = (method(name) for name in method_names() if name not in unusable)
    classes = sorted(usable, key=lambda cls: (cls.order, cls.name))
    reference = [cls.name for cls in classes if cls.baseline]
    result: dict[str, list[str]] = {}
    for cls in classes:
        for suite, expressions in cls.suites.items():
            result.setdefault(suite, []).extend(expressions)
    for family in dict.fromkeys(cls.family for cls in classes):
        members = [cls.name for cls in classes if cls.family == family]
        result[family] = [*(name for name in reference if name not in members), *members]
    return result | {"all": [*(cls.name for cls in classes), *unusable]}


def rates() -> dict[str, type]:
    """Method -> the form of the KL term that it lends to others, of those that do."""
    unusable = broken()
    classes = (method(name) for name in method_names() if name not in unusable)
    return {cls.name: cls.lends for cls in classes if cls.lends}


def _modules(package: str, group: str) -> dict[str, list[str]]:
    """Name -> module paths, from the package's folder and from entry points: one, or it is in doubt."""
    path = importlib.import_module(package).__path__
    found = {m.name: [f"{package}.{m.name}"] for m in pkgutil.iter_modules(path) if not m.ispkg and m.name[0] != "_"}
    for entry in entry_points(group=group):
        places = found.setdefault(entry.name, [])
        if entry.value not in places:
            places.append(entry.value)
    return found


def _load(name: str, package: str, group: str, kind: str) -> ModuleType:
    """The module of that name; what it prints while it is imported goes to the standard error."""
    modules = _modules(package, group)
    if name not in modules:
        raise UserError(f"unknown {kind} '{name}': {suggest(name, modules)}")
    if len(modules[name]) > 1:
        raise UserError(f"{kind} '{name}' is registered twice, by {' and by '.join(modules[name])}: remove one")
    (place,) = modules[name]
    try:
        with redirect_stdout(sys.stderr):
            return importlib.import_module(place)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{kind} '{name}' cannot be imported ({place}): {type(error).__name__}: {error}; {REPAIR}"
        ) from error


def _place(module: ModuleType) -> str:
    return module.__file__ or module.__name__
