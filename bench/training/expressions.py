"""Method expressions: the rows of a table as typed on the command line.

``beta_vae(beta=0.2|0.4)+anneal`` is a method with settings and up to three modifiers: a KL-weight schedule
(``+anneal``, ``+cyclical(cycles=2)``), a KL term (``+free_bits(target=4)``) and the learning rate
(``+lr(scale=0.5)``). Values separated by ``|`` make a sweep, one row each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bench.core.config import MODELS, SECTIONS, TrainConfig, suggest, with_overrides
from bench.core.errors import UserError
from bench.core.modifiers import LEARNING_RATE, SCHEDULES, LearningRate
from bench.core.space import Choice, Range
from bench.core.syntax import parse_expression, parse_value
from bench.method import Method
from bench.training import registry

MAX_ROWS = 1000

#: Kinds of modifiers, in the order in which a row's name has them: at most one of each.
MODIFIER_NAMES = {"kl_term": "KL term", "schedule": "schedule", "learning_rate": "learning rate"}

Settings = Mapping[str, Mapping[str, Any]]  # method → setting → value


@dataclass(frozen=True)
class Modifier:
    """What is attached to a method with ``+``."""

    kind: str  # a key of MODIFIER_NAMES
    name: str
    value: Any  # the schedule, KL term or learning rate itself, a frozen dataclass


@dataclass(frozen=True)
class MethodSpec:
    """A method with its settings and modifiers: one row of a table."""

    method: type[Method]
    config: Any
    modifiers: Mapping[str, Modifier]  # by kind; without one, the method's default schedule or own KL term
    expression: str  # canonical: without defaults, so that every row has one name
    notes: tuple[str, ...]

    @property
    def lr_scale(self) -> float:
        """Factor of the preset's learning rate."""
        modifier = self.modifiers.get("learning_rate")
        return modifier.value.scale if modifier else 1.0

    def instance(self) -> Method:
        """Create the method. Methods hold state: every cell needs its own."""
        attached = {kind: modifier.value for kind, modifier in self.modifiers.items() if kind != "learning_rate"}
        return self.method.create(self.config, **attached)


def parse_methods(
    expressions: Iterable[str], preset: str, settings: Settings | None = None
) -> tuple[list[MethodSpec], dict[str, list[str]]]:
    """Return the rows of expressions and suites without duplicates, and the rows of every sweep.

    ``settings`` come from ``--set``; those in an expression take precedence.
    """
    settings = settings or {}
    rows: dict[str, MethodSpec] = {}
    sweeps: dict[str, list[str]] = {}
    used: set[str] = set()
    for expression in dict.fromkeys(_expand_suites(expressions)):
        used.add(parse_expression(expression)[0].name)
        members = [_method_spec(calls, preset, settings) for calls in _expand_sweep(expression)]
        rows |= {member.expression: member for member in members}
        if len(rows) > MAX_ROWS:
            raise UserError(f"more than {MAX_ROWS:,} rows: give fewer expressions or shorter sweeps")
        if len(members) > 1:
            sweeps[expression.replace(" ", "")] = [member.expression for member in members]
    for name in settings:
        if name not in used:
            raise UserError(f"--set {name}.…: '{name}' is not in --methods: add it, or leave the setting out")
    return list(rows.values()), sweeps


def missing_controls(rows: Sequence[MethodSpec], preset: str) -> list[MethodSpec]:
    """Return the rows of the suite ``controls``, with default settings, that a comparison lacks; none for one row."""
    names = {row.expression for row in rows}
    controls, _ = parse_methods(["controls"], preset) if len(rows) > 1 else ([], {})
    return [row for row in controls if row.expression not in names]


def _expand_suites(expressions: Iterable[str]) -> Iterator[str]:
    for expression in expressions:
        suite = expression.isidentifier() and expression not in registry.method_names()
        yield from registry.suites().get(expression, [expression]) if suite else [expression]


def _expand_sweep(expression: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield (name, settings) of the method and its modifiers, for every member of a sweep."""
    calls = parse_expression(expression)
    alternatives = [values for call in calls for values in call.settings.values()]
    if (size := math.prod(map(len, alternatives))) > MAX_ROWS:
        raise UserError(f"'{expression}' is a sweep of {size:,} rows: split it, at most {MAX_ROWS:,} are possible")
    for combination in itertools.product(*alternatives):
        values = iter(combination)
        yield [(call.name, {key: parse_value(next(values)) for key in call.settings}) for call in calls]


def _method_spec(calls: Sequence[tuple[str, dict[str, Any]]], preset: str, settings: Settings) -> MethodSpec:
    (name, values), *modifiers = calls
    method = registry.method(name)
    if method.same_as:
        (own, attached), given = parse_expression(method.same_as), {**settings.get(name, {}), **values}
        return _method_spec([(own.name, {}), (attached.name, given), *modifiers], preset, settings)
    default = preset_default(method, preset)
    config = with_overrides(default, {**settings.get(name, {}), **values}, f"method '{name}'")
    return _spec(method, config, _parse_modifiers(method, modifiers), preset)


def preset_default(method: type[Method], preset: str) -> Any:
    """Return a method's settings in a preset, unless they are given."""
    return with_overrides(method.Config(), method.preset_overrides.get(preset, {}), f"method '{method.name}'")


def _spec(method: type[Method], config: Any, modifiers: Mapping[str, Modifier], preset: str) -> MethodSpec:
    """Return the row with its canonical name, and notes on the settings that the preset changes."""
    default = preset_default(method, preset)
    notes = tuple(
        f"{key} = {value} in this preset (otherwise {getattr(method.Config(), key)})"
        for key, value in method.preset_overrides.get(preset, {}).items()
        if getattr(config, key) == value
    )
    expression = _expression(method, config, modifiers, default, method.display_params)
    return MethodSpec(method, config, modifiers, expression, notes)


def _expression(
    method: type[Method], config: Any, modifiers: Mapping[str, Modifier], default: Any, always: Iterable[str]
) -> str:
    """Return the canonical expression, with the settings that are not at their defaults and those named ``always``."""
    text = f"{method.name}{_arguments(config, default, always)}"
    return text + "".join(f"+{m.name}{_arguments(m.value, type(m.value)())}" for m in modifiers.values())


def tuned_name(row: MethodSpec, preset: str) -> str:
    """Return the expression of a row without the settings that tuning varies."""
    varied = {name for part, name in search_space(row, preset) if not part}
    always = [name for name in row.method.display_params if name not in varied]
    return _expression(row.method, row.config, row.modifiers, preset_default(row.method, preset), always)


def search_space(row: MethodSpec, preset: str) -> dict[tuple[str, str], Range | Choice]:
    """Return (part, setting) → values for all that tuning varies of a row: the learning rate, then the other settings.

    The part is a kind of modifier, or "" for the method itself. A setting that is not at its default stays as it is.
    """
    rate = Modifier("learning_rate", LEARNING_RATE, LearningRate())
    modifiers = {"learning_rate": rate, **row.modifiers}
    parts = {kind: (modifier.value, type(modifier.value)()) for kind, modifier in modifiers.items()}
    parts[""] = (row.config, preset_default(row.method, preset))
    return {
        (part, name): values
        for part, (current, default) in parts.items()
        for name, values in (getattr(current, "space", {}) if part else row.method.space).items()
        if getattr(current, name) == getattr(default, name)
    }


def with_settings(row: MethodSpec, values: Mapping[tuple[str, str], Any], preset: str) -> MethodSpec:
    """Return a row with other values of settings in its ``search_space``."""
    by_part: dict[str, dict[str, Any]] = {}
    for (part, name), value in values.items():
        by_part.setdefault(part, {})[name] = value
    config = with_overrides(row.config, by_part.pop("", {}), row.expression)
    modifiers = dict(row.modifiers)
    for kind, changed in by_part.items():
        name = modifiers[kind].name if kind in modifiers else LEARNING_RATE
        current = modifiers[kind].value if kind in modifiers else LearningRate()
        modifiers[kind] = Modifier(kind, name, with_overrides(current, changed, row.expression))
    return _spec(row.method, config, {kind: modifiers[kind] for kind in MODIFIER_NAMES if kind in modifiers}, preset)


def _parse_modifiers(method: type[Method], calls: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Modifier]:
    """Return kind → modifier: at most one of each kind, and none that is incompatible with the method."""
    modifiers: dict[str, Modifier] = {}
    for name, values in calls:
        modifier = build_modifier(name, values)
        if modifier.kind in modifiers:
            raise UserError(f"'+{name}' is a second {MODIFIER_NAMES[modifier.kind]}: remove one")
        if reason := method.incompatible_with.get(modifier.kind):
            raise UserError(f"'+{name}' cannot be combined with {method.name}, leave it out: {reason}")
        modifiers[modifier.kind] = modifier
    return {kind: modifiers[kind] for kind in MODIFIER_NAMES if kind in modifiers}


def build_modifier(name: str, values: Mapping[str, Any]) -> Modifier:
    """Return the modifier of that name and settings. Raise ``UserError`` if there is none, or no such setting."""
    cls: type
    if name == LEARNING_RATE:
        kind, cls = "learning_rate", LearningRate
    elif name in SCHEDULES:
        kind, cls = "schedule", SCHEDULES[name]
    elif name in registry.method_names() and (term := registry.method(name).exported_kl_term):
        kind, cls = "kl_term", term
    else:
        known = {LEARNING_RATE, *SCHEDULES, *registry.kl_terms()}
        if name in registry.method_names():
            raise UserError(f"'+{name}' is a method: write it first, and after '+' one of {', '.join(sorted(known))}")
        raise UserError(f"unknown modifier '+{name}': {suggest(name, known)}")
    return Modifier(kind, name, with_overrides(cls(), values, f"{MODIFIER_NAMES[kind]} '{name}'"))


def available_modifiers() -> dict[str, dict[str, type]]:
    """Return kind → name after the ``+`` → class."""
    return {"kl_term": registry.kl_terms(), "schedule": SCHEDULES, "learning_rate": {LEARNING_RATE: LearningRate}}


def _arguments(config: Any, default: Any, always: Iterable[str] = ()) -> str:
    always = {*always}
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    parts = [f"{key}={value}" for key, value in values.items() if key in always or value != getattr(default, key)]
    return f"({','.join(parts)})" if parts else ""


def _section_settings() -> list[tuple[str, set[str]]]:
    """Return the sections of the presets with the names of their settings, for all modalities."""
    classes = [("train", TrainConfig), *(("model", cls) for cls in MODELS.values())]
    return [(section, {f.name for f in fields(cls)}) for section, cls in classes]


def parse_settings(assignments: Iterable[str]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the settings of methods and those of preset sections from the ``KEY=VALUE`` texts of ``--set``."""
    methods: dict[str, dict[str, Any]] = {}
    sections: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        owner, dot, setting = key.strip().partition(".")
        if not (equals and dot and setting):
            section = next((name for name, settings in _section_settings() if equals and key.strip() in settings), None)
            remedy = (
                f"did you mean {section}.{assignment}?" if section else "write method.setting=value or train.lr=0.01"
            )
            raise UserError(f"cannot read --set {assignment}: {remedy}")
        if not value.strip():
            raise UserError(f"--set {assignment} has no value: write one after '=', none or ()")
        known = {*registry.method_names(), *SECTIONS}
        if owner not in known:
            raise UserError(f"--set {assignment}: no method or section '{owner}': {suggest(owner, known)}")
        settings = sections if owner in SECTIONS else methods
        settings.setdefault(owner, {})[setting] = parse_value(value.strip())
    return methods, sections
