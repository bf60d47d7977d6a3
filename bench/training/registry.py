"""Finds methods and data sets. A file's presence is its registration; packages elsewhere register by entry point.

Names are known without importing anything; a module is imported when its method or data set is asked for. One that is
broken is a ``UserError`` for whoever asks for it, and for nobody else.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.plugins import REPAIR, find_modules, load_module, module_path

if TYPE_CHECKING:
    from bench.method import Method

#: Entry-point groups in which other packages name their modules: ``my_method = my_package.my_method``.
METHODS_GROUP = "posterior_collapse_bench.methods"


@cache
def method_names() -> tuple[str, ...]:
    return tuple(sorted(find_modules("bench.methods", METHODS_GROUP)))


def method(name: str) -> type[Method]:
    """The method class in the file (or entry point) of that name."""
    found = _method(name)
    if isinstance(found, str):
        raise UserError(found)
    return found


@cache
def _method(name: str) -> type[Method] | str:
    """The class, or why it cannot be had: a module that fails is imported once."""
    from bench.method import Method
    from bench.training.method_checks import class_fault

    try:
        module = load_module(name, "bench.methods", METHODS_GROUP, "method")
    except UserError as error:
        return str(error)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        one = f"it must define one subclass of bench.method.Method, not {len(found)}"
        return f"method '{name}' ({module_path(module)}): {one}; {REPAIR}"
    found[0].name = name
    if fault := class_fault(found[0]):
        return f"method '{name}' ({module_path(module)}): {fault}; {REPAIR}"
    return found[0]


def import_errors() -> dict[str, str]:
    """Method -> why it cannot be had, of those that cannot."""
    return {name: why for name in method_names() if isinstance(why := _method(name), str)}


def suites() -> dict[str, list[str]]:
    """Suite -> method expressions in table order. Every family is one, with the baseline before it; ``all`` is every
    method at its default. Those that are broken come last in it, so that whoever asks for all hears of them."""
    unusable = import_errors()
    usable = (method(name) for name in method_names() if name not in unusable)
    classes = sorted(usable, key=lambda cls: (cls.table_order, cls.name))
    reference = [cls.name for cls in classes if cls.baseline]
    result: dict[str, list[str]] = {}
    for cls in classes:
        for suite, expressions in cls.suites.items():
            result.setdefault(suite, []).extend(expressions)
    for family in dict.fromkeys(cls.family for cls in classes):
        members = [cls.name for cls in classes if cls.family == family]
        result[family] = [*(name for name in reference if name not in members), *members]
    return result | {"all": [*(cls.name for cls in classes), *unusable]}


def kl_terms() -> dict[str, type]:
    """Method -> the form of the KL term that it lends to others, of those that do."""
    unusable = import_errors()
    classes = (method(name) for name in method_names() if name not in unusable)
    return {cls.name: cls.exported_kl_term for cls in classes if cls.exported_kl_term}
