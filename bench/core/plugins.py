"""Find modules in a package's folder or by entry points."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from contextlib import redirect_stdout
from importlib.metadata import entry_points
from types import ModuleType

from bench.core.config import suggest
from bench.core.errors import UserError

REPAIR = "repair or remove it"


def find_modules(package: str, group: str) -> dict[str, list[str]]:
    """Return the module paths by name, from the folder of ``package`` and the entry points of ``group``.

    More than one path means that two modules have the same name.
    """
    folder = importlib.import_module(package).__path__
    modules = {
        m.name: [f"{package}.{m.name}"] for m in pkgutil.iter_modules(folder) if not m.ispkg and m.name[0] != "_"
    }
    for entry in entry_points(group=group):
        paths = modules.setdefault(entry.name, [])
        if entry.value not in paths:
            paths.append(entry.value)
    return modules


def load_module(name: str, package: str, group: str, kind: str) -> ModuleType:
    """Import the module ``name``; ``kind`` is what errors call it.

    What it prints during the import goes to standard error. Raise ``UserError`` for an unknown or ambiguous name, or
    a module that cannot be imported.
    """
    modules = find_modules(package, group)
    if name not in modules:
        raise UserError(f"unknown {kind} '{name}': {suggest(name, modules)}")
    if len(modules[name]) > 1:
        raise UserError(f"{kind} '{name}' is registered twice, by {' and by '.join(modules[name])}: remove one")
    (path,) = modules[name]
    try:
        with redirect_stdout(sys.stderr):
            return importlib.import_module(path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{kind} '{name}' cannot be imported ({path}): {type(error).__name__}: {error}; {REPAIR}"
        ) from error


def module_path(module: ModuleType) -> str:
    """Return the file of a module, or its name if it has none."""
    return module.__file__ or module.__name__
