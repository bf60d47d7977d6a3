"""Registry of methods: every file in ``methods/``, and entry points of other packages.

Names are known without an import; a module is imported when its method is needed. A method that cannot be imported is a
``UserError`` only when it is requested.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bench.core.config import suggest
from bench.core.errors import UserError
from bench.core.plugins import Registry

if TYPE_CHECKING:
    from bench.method import Method

REGISTRY = Registry("method", "bench.methods", "posterior_collapse_bench.methods")


@cache
def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return REGISTRY.names()


def method(name: str) -> type[Method]:
    """Return the class of a method. Raise ``UserError`` if it is unknown, cannot be imported or breaks the contract."""
    if name not in method_names():
        if name in suites():
            raise UserError(f"'{name}' is a suite, without settings and '+': name methods, such as {suites()[name][0]}")
        raise UserError(f"unknown method '{name}': {suggest(name, {*method_names(), *suites()})}")
    result = _method(name)
    if isinstance(result, UserError):
        raise result
    return result


@cache
def _method(name: str) -> type[Method] | UserError:
    """Return the class or the error: a module that fails is imported only once."""
    from bench.method import Method
    from bench.training.method_checks import check_method

    try:
        module = REGISTRY.load(name)
    except UserError as error:
        return error
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    try:
        if len(classes) != 1:
            raise UserError(f"it must define one subclass of bench.method.Method, not {len(classes)}")
        classes[0].name = name
        check_method(classes[0])
    except UserError as error:
        return REGISTRY.defect(name, module, f"is invalid: {error}")
    return classes[0]


def import_errors() -> dict[str, str]:
    """Return method → error message, for methods that cannot be used. Imports all methods."""
    return {name: str(error) for name in method_names() if isinstance(error := _method(name), UserError)}


def _usable() -> list[type[Method]]:
    errors = import_errors()
    return [method(name) for name in method_names() if name not in errors]


def suites() -> dict[str, list[str]]:
    """Return suite → method expressions in table order.

    Every family is a suite, with the baseline first; ``all`` has every method with its default settings, followed by
    the methods that cannot be used, so that a run of ``all`` reports them.
    """
    classes = sorted(_usable(), key=lambda cls: (cls.table_order, cls.name))
    baselines = [cls.name for cls in classes if cls.baseline]
    result: dict[str, list[str]] = {}
    for cls in classes:
        for suite, expressions in cls.suites.items():
            result.setdefault(suite, []).extend(expressions)
    for family in dict.fromkeys(cls.family for cls in classes):
        members = [cls.name for cls in classes if cls.family == family]
        result[family] = [*(name for name in baselines if name not in members), *members]
    if shadowed := sorted({*result, "all"} & {*method_names()}):
        raise UserError(f"method '{shadowed[0]}' has the name of a suite: rename its file")
    return result | {"all": [*(cls.name for cls in classes), *import_errors()]}


def kl_terms() -> dict[str, type]:
    """Return method → the KL term that it exports, for use as a modifier of other methods."""
    return {cls.name: cls.exported_kl_term for cls in _usable() if cls.exported_kl_term}
