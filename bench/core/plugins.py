"""Find modules by their presence in a folder or by entry points."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from contextlib import redirect_stdout
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING

from bench.core.config import suggest
from bench.core.errors import UserError

if TYPE_CHECKING:
    pass


REPAIR = "repair it, move it out of the way, or name the others one by one"


def find_modules(package: str, group: str) -> dict[str, list[str]]:
    """Name -> module paths, from the package's folder and from entry points: one, or it is in doubt."""
    path = importlib.import_module(package).__path__
    found = {m.name: [f"{package}.{m.name}"] for m in pkgutil.iter_modules(path) if not m.ispkg and m.name[0] != "_"}
    for entry in entry_points(group=group):
        places = found.setdefault(entry.name, [])
        if entry.value not in places:
            places.append(entry.value)
    return found


def load_module(name: str, package: str, group: str, kind: str) -> ModuleType:
    """The module of that name; what it prints while it is imported goes to the standard error."""
    modules = find_modules(package, group)
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


def module_path(module: ModuleType) -> str:
    return module.__file__ or module.__name__
