"""Method expressions: the rows of a table as typed on the command line.

``beta_vae(beta=0.2|0.4)+anneal`` is a method with settings and up to two modifiers: a KL-weight schedule (``+anneal``,
``+cyclical(cycles=2)``) and a KL term (``+free_bits(target=4)``). Values separated by ``|`` make a sweep, one row each.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.core.config import SECTIONS, suggest, with_overrides
from bench.core.errors import UserError
from bench.core.schedules import SCHEDULES, Schedule
from bench.core.syntax import parse_expression, parse_value
from bench.method import Method
from bench.models.kl_terms import KLTerm
from bench.training import registry

MAX_ROWS = 1000

#: Kinds of modifiers, in the order in which a row's name has them: at most one of each.
MODIFIER_NAMES = {"kl_term": "KL term", "schedule": "schedule"}

Settings = Mapping[str, Mapping[str, str]]  # method → setting → value as typed


@dataclass(frozen=True)
class MethodSpec:
    """A method with its settings and modifiers: one row of a table."""

    method: type[Method]
    config: Any
    schedule: Schedule | None  # None: the method's default
    kl_term: KLTerm | None  # None: the method's own
    expression: str  # canonical: without defaults, so that every row has one name
    notes: tuple[str, ...]

    def instance(self) -> Method:
        """Create the method. Methods hold state: every cell needs its own."""
        return self.method.create(self.config, self.schedule, self.kl_term)

    def record(self) -> dict:
        """What determines numbers (name, config, schedule, kl_term, revision), and what a report needs to know."""
        method, schedule = self.method, self.instance().schedule
        return {
            "name": method.name,
            "expression": self.expression,
            "label": self.expression,
            "config": asdict(self.config),
            "schedule": {"name": type(schedule).__name__, **vars(schedule)},
            **({"kl_term": {"name": type(self.kl_term).__name__, **vars(self.kl_term)}} if self.kl_term else {}),
            **({"revision": method.revision} if method.revision > 1 else {}),
            "summary": method.summary,
            "citation": method.citation,
            "about": inspect.cleandoc(sys.modules[method.__module__].__doc__ or ""),
            "family": method.family,
            "order": method.table_order,
            "baseline": method.baseline and self.schedule is None and self.kl_term is None,
            "footnotes": dict(method.footnotes),
            "notes": list(self.notes),
        }


def parse_methods(
    expressions: Iterable[str], preset: str, settings: Settings | None = None
) -> tuple[list[MethodSpec], dict[str, list[str]]]:
    """Return the rows of expressions and suites without duplicates, and the rows of every sweep.

    ``settings`` come from ``--set``; those in an expression take precedence.
    """
    settings = settings or {}
    rows: dict[str, MethodSpec] = {}
    sweeps: dict[str, list[str]] = {}
    for expression in _expand_suites(expressions):
        members = [_method_spec(calls, preset, settings) for calls in _expand_sweep(expression)]
        rows |= {member.expression: member for member in members}
        if len(rows) > MAX_ROWS:
            raise UserError(f"more than {MAX_ROWS:,} rows: give fewer expressions or shorter sweeps")
        if len(members) > 1:
            sweeps[expression.replace(" ", "")] = [member.expression for member in members]
    used = {row.method.name for row in rows.values()}
    for name in settings:
        if name not in used:
            raise UserError(f"--set {name}.…: '{name}' is not a method of this run: {suggest(name, used)}")
    return list(rows.values()), sweeps


def _expand_suites(expressions: Iterable[str]) -> Iterable[str]:
    expanded: list[str] = []
    for expression in expressions:
        suite = expression.isidentifier() and expression not in registry.method_names()
        expanded += registry.suites().get(expression, [expression]) if suite else [expression]
    return dict.fromkeys(expanded)


def _expand_sweep(expression: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield (name, settings) of the method and its modifiers, for every member of a sweep."""
    calls = parse_expression(expression)
    alternatives = [values for call in calls for values in call.settings.values()]
    if (size := math.prod(map(len, alternatives))) > MAX_ROWS:
        raise UserError(f"'{expression}' is a sweep of {size:,} rows: at most {MAX_ROWS:,} are possible")
    for combination in itertools.product(*alternatives):
        values = iter(combination)
        yield [(call.name, {key: parse_value(next(values)) for key in call.settings}) for call in calls]


def _method_spec(calls: Sequence[tuple[str, dict[str, Any]]], preset: str, settings: Settings) -> MethodSpec:
    (name, values), *modifiers = calls
    if name not in registry.method_names():
        raise UserError(f"unknown method '{name}': {suggest(name, {*registry.method_names(), *registry.suites()})}")
    method = registry.method(name)
    overrides = method.preset_overrides.get(preset, {})
    default = with_overrides(method.Config(), overrides, f"method '{name}'")
    typed = {key: parse_value(value) for key, value in settings.get(name, {}).items()}
    config = with_overrides(default, typed | values, f"method '{name}'")
    notes = tuple(
        f"{key} = {value} in this preset (otherwise {getattr(method.Config(), key)})"
        for key, value in overrides.items()
        if getattr(config, key) == value
    )
    parsed = _parse_modifiers(method, modifiers)
    expression = f"{name}{_arguments(config, default, method.display_params)}"
    for kind in MODIFIER_NAMES:
        if kind in parsed:
            modifier_name, modifier = parsed[kind]
            expression += f"+{modifier_name}{_arguments(modifier, type(modifier)())}"
    objects = {kind: modifier for kind, (_, modifier) in parsed.items()}
    return MethodSpec(method, config, objects.get("schedule"), objects.get("kl_term"), expression, notes)


def _parse_modifiers(method: type[Method], calls: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, tuple[str, Any]]:
    """Return kind → (name, object): at most one of each kind, and none that is incompatible with the method."""
    modifiers: dict[str, tuple[str, Any]] = {}
    for name, values in calls:
        kind, modifier = build_modifier(name, values)
        if kind in modifiers:
            raise UserError(f"'+{name}' is a second {MODIFIER_NAMES[kind]}: remove one")
        if reason := method.incompatible_with.get(kind):
            raise UserError(f"'+{name}' cannot be combined with {method.name}: {reason}")
        modifiers[kind] = name, modifier
    return modifiers


def build_modifier(name: str, values: Mapping[str, Any]) -> tuple[str, Any]:
    """Return (kind, schedule or KL term) for the name and settings of a modifier."""
    if name in SCHEDULES:
        kind, cls = "schedule", SCHEDULES[name]
    elif name in registry.method_names() and (term := registry.method(name).exported_kl_term):
        kind, cls = "kl_term", term
    else:
        raise UserError(f"unknown schedule or KL term '+{name}': {suggest(name, {*SCHEDULES, *registry.kl_terms()})}")
    return kind, with_overrides(cls(), values, f"{MODIFIER_NAMES[kind]} '{name}'")


def modifiers() -> dict[str, dict[str, type]]:
    """Return kind → name after the ``+`` → class."""
    return {"kl_term": registry.kl_terms(), "schedule": SCHEDULES}


def _arguments(config: Any, default: Any, always: Sequence[str] = ()) -> str:
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    parts = [f"{key}={value}" for key, value in values.items() if key in always or value != getattr(default, key)]
    return f"({','.join(parts)})" if parts else ""


def parse_settings(assignments: Iterable[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
    """Sort the ``KEY=VALUE`` texts of ``--set`` into settings of methods (as typed) and of preset sections (values)."""
    methods: dict[str, dict[str, str]] = {}
    sections: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        owner, dot, setting = key.strip().partition(".")
        if not (equals and dot and setting):
            raise UserError(f"cannot read --set {assignment}: write method.setting=value or section.setting=value")
        if owner in SECTIONS:
            sections.setdefault(owner, {})[setting] = parse_value(value.strip())
        elif owner in registry.method_names():
            methods.setdefault(owner, {})[setting] = value.strip()
        else:
            known = {*registry.method_names(), *SECTIONS}
            raise UserError(f"--set {assignment}: no method or section '{owner}': {suggest(owner, known)}")
    return methods, sections
