"""Find and import modules: methods, data sets and metric groups."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from bench.core.config import suggest
from bench.core.errors import UserError
from bench.core.hashing import short_hash


@dataclass(frozen=True)
class Registry:
    """Modules of one kind: the files of a package's folder, and the entry points of other packages."""

    kind: str  #: In error messages: "data set".
    package: str
    entry_points: str  #: Group of the entry points: ``my_method = "my_package.my_method"``.

    def names(self) -> tuple[str, ...]:
        """Return the names of all modules in alphabetical order. Nothing is imported."""
        return tuple(sorted(self._paths()))

    def load(self, name: str) -> ModuleType:
        """Import a module. What it prints goes to standard error.

        Raise ``UserError`` for an unknown or ambiguous name, or a module that cannot be imported.
        """
        modules = self._paths()
        if name not in modules:
            raise UserError(f"unknown {self.kind} '{name}': {suggest(name, modules)}")
        if len(modules[name]) > 1:
            paths = " and by ".join(sorted(modules[name]))
            raise UserError(f"{self.kind} '{name}' is registered twice, by {paths}: remove one")
        (path,) = modules[name]
        try:
            with redirect_stdout(sys.stderr):
                return importlib.import_module(path)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise self.defect(name, path, f"cannot be imported: {type(error).__name__}: {error}") from error

    def defect(self, name: str, module: ModuleType | str, problem: str) -> UserError:
        """Return the error that ``module`` breaks the contract."""
        path = module if isinstance(module, str) else module.__file__ or module.__name__
        return UserError(f"{self.kind} '{name}' ({path}) {problem}; repair or remove it")

    def _paths(self) -> dict[str, set[str]]:
        """Return the module paths by name; more than one path if two modules have the same name."""
        folder = importlib.import_module(self.package).__path__
        names = [module.name for module in pkgutil.iter_modules(folder) if not module.ispkg and module.name[0] != "_"]
        paths = {name: {f"{self.package}.{name}"} for name in names}
        for entry in entry_points(group=self.entry_points):
            paths.setdefault(entry.name, set()).add(entry.value)
        return paths


@cache
def code_digest(module: str) -> str:
    """Return a digest of an imported module's code; "" if it has no source.

    Comments, docstrings and layout do not change it. It begins with the version of Python, whose versions may write the
    same code in different ways.
    """
    try:
        tree = ast.parse(Path(getattr(sys.modules.get(module), "__file__", None) or "").read_bytes())
    except (OSError, SyntaxError, ValueError):  # there is no source, or it was just edited
        return ""
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            code = [
                line
                for line in body
                if not (isinstance(line, ast.Expr) and isinstance(getattr(line.value, "value", None), str))
            ]
            node.body = code or [ast.Pass()]  # type: ignore[attr-defined]
    return f"{sys.version_info.major}.{sys.version_info.minor} {short_hash(ast.unparse(tree))}"


def code_changed(stored: str, module: str) -> bool:
    """Return whether an imported module has other code than when ``stored`` was its digest; False if unknown."""
    current = code_digest(module)
    return stored != current and stored.split(" ")[0] == current.split(" ")[0]
