"""Expressions: what stands on the command line for methods, the rows of a table, and for data sets.

An expression is ``name``, ``name(setting=value, …)``, either with a schedule of the KL weight attached, or a form of
the KL term, or both: ``+anneal``, ``+cyclical(cycles=2)``, ``+free_bits(target=4)``. Values joined by ``|`` make a
sweep, one row each.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.core.config import SECTIONS, suggest, with_overrides
from bench.core.errors import UserError
from bench.core.schedules import SCHEDULES, Schedule
from bench.core.syntax import MAX_EXPRESSION_LENGTH, parse_call, parse_value
from bench.method import Method
from bench.models.kl_terms import KLTerm
from bench.training import registry

MAX_ROWS = 1000  # of a run

#: What can be attached to a method with a +, one of each kind, in the order in which they stand in a row's name.
MODIFIER_NAMES = {"kl_term": "form of the KL term", "schedule": "schedule"}


@dataclass(frozen=True)
class MethodSpec:
    """A method with its settings and what is attached to it: one row of a table."""

    method: type[Method]
    config: Any
    schedule: Schedule | None  # attached with +; None: the method's own
    kl_term: KLTerm | None  # the same
    expression: str  # the canonical text: defaults left out, so that one row has one name
    notes: tuple[str, ...]

    def instance(self) -> Method:
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
    expressions: Iterable[str], preset: str, settings: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[list[MethodSpec], dict[str, list[str]]]:
    """The rows that expressions and suites stand for, without repetition; and sweep -> the rows of it.

    ``settings`` are those of ``--set``: method name -> setting -> value as typed; an expression's own go before.
    """
    settings = settings or {}
    rows: dict[str, MethodSpec] = {}
    sweeps: dict[str, list[str]] = {}
    flat = []
    for expression in expressions:
        known = registry.method_names()
        flat += registry.suites().get(expression, [expression]) if expression not in known else [expression]
    for expression in dict.fromkeys(flat):
        members = [_method_spec(parts, preset, settings) for parts in _expand_sweep(expression)]
        for member in members:
            rows.setdefault(member.expression, member)
        if len(rows) > MAX_ROWS:
            raise UserError(f"these are more than {MAX_ROWS:,} rows: give fewer expressions, or shorter sweeps")
        if len(members) > 1:
            sweeps[expression.replace(" ", "")] = [member.expression for member in members]
    used = {row.method.name for row in rows.values()}
    for name in settings:
        if name not in used:
            raise UserError(f"--set {name}.…: '{name}' is not among the methods of this run: {suggest(name, used)}")
    return list(rows.values()), sweeps


def _expand_sweep(expression: str) -> Iterable[list[tuple[str, dict[str, str]]]]:
    """The parts (name, settings as typed) of every member of an expression's sweep: the method, what is attached."""
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise UserError(
            f"an expression of {len(expression):,} characters is too long: {MAX_EXPRESSION_LENGTH:,} at most"
        )
    parts = [parse_call(text, expression) for text in re.split(r"\+(?![^(]*\))", expression)]
    alternatives = [values for _, given in parts for values in given.values()]
    if (size := math.prod(map(len, alternatives))) > MAX_ROWS:
        raise UserError(f"'{expression}' is a sweep of {size:,} rows: {MAX_ROWS:,} at most")
    for chosen in itertools.product(*alternatives):
        value = iter(chosen)
        yield [(name, {key: next(value) for key in given}) for name, given in parts]


def _method_spec(
    parts: list[tuple[str, dict[str, str]]], preset: str, settings: Mapping[str, Mapping[str, str]]
) -> MethodSpec:
    (name, given), *others = parts
    if name not in registry.method_names():
        raise UserError(f"unknown method '{name}': {suggest(name, {*registry.method_names(), *registry.suites()})}")
    method = registry.method(name)
    reduced = method.preset_overrides.get(preset, {})
    default = with_overrides(method.Config(), reduced, f"method '{name}'")
    config = with_overrides(default, _values({**settings.get(name, {}), **given}), f"method '{name}'")
    attached = _parse_modifiers(method, others)
    suffix = "".join(f"+{part}{_arguments(form, type(form)(), ())}" for part, form in attached.values())
    notes = tuple(
        f"{key} = {value} in this preset (otherwise {getattr(method.Config(), key)})"
        for key, value in reduced.items()
        if getattr(config, key) == value
    )
    expression = f"{name}{_arguments(config, default, method.display_params)}{suffix}"
    of_kind = {kind: form for kind, (_, form) in attached.items()}
    return MethodSpec(method, config, of_kind.get("schedule"), of_kind.get("kl_term"), expression, notes)


def modifiers() -> dict[str, dict[str, type]]:
    """Kind -> name behind the + -> class."""
    return {"kl_term": registry.kl_terms(), "schedule": SCHEDULES}


def _parse_modifiers(method: type[Method], parts: Sequence[tuple[str, dict[str, str]]]) -> dict[str, tuple[str, Any]]:
    """Kind -> name and form of what is attached: one of each kind at most, of those that the method does not refuse."""
    attached: dict[str, tuple[str, Any]] = {}
    found = modifiers() if parts else {}
    for part, given in parts:
        kind = next((kind for kind, classes in found.items() if part in classes), None)
        if kind is None:
            known = [name for classes in found.values() for name in classes]
            raise UserError(f"'+{part}' is no schedule and no form of the KL term: {suggest(part, known)}")
        if kind in attached:
            raise UserError(f"'+{part}': one {MODIFIER_NAMES[kind]} at most can be attached")
        if kind in method.incompatible_with:
            raise UserError(f"'{method.name}+{part}' makes no sense: {method.incompatible_with[kind]}")
        attached[kind] = part, with_overrides(found[kind][part](), _values(given), f"{MODIFIER_NAMES[kind]} '{part}'")
    return {kind: attached[kind] for kind in MODIFIER_NAMES if kind in attached}


def _arguments(config: Any, default: Any, shown: Sequence[str]) -> str:
    chosen = {f.name: getattr(config, f.name) for f in fields(config)}
    parts = [f"{key}={value}" for key, value in chosen.items() if key in shown or value != getattr(default, key)]
    return f"({','.join(parts)})" if parts else ""


def _values(given: Mapping[str, str]) -> dict[str, Any]:
    return {key: parse_value(value) for key, value in given.items()}


def split_settings(assignments: Iterable[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
    """``KEY=VALUE`` texts of ``--set`` -> (method -> setting -> text, protocol section -> setting -> value)."""
    methods: dict[str, dict[str, str]] = {}
    protocol: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        owner, dot, setting = key.strip().partition(".")
        if not (equals and dot and setting):
            raise UserError(f"cannot read --set {assignment}: write method.setting=value")
        if owner in SECTIONS:
            protocol.setdefault(owner, {})[setting] = parse_value(value.strip())
        elif owner in registry.method_names():
            methods.setdefault(owner, {})[setting] = value.strip()
        else:
            known = {*registry.method_names(), *SECTIONS}
            raise UserError(f"--set {assignment}: no method '{owner}': {suggest(owner, known)}")
    return methods, protocol
