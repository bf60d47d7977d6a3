"""Check a method class when it is loaded: attributes, settings, signatures of its hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from inspect import isfunction, ismethod, signature
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.core.config import MODELS, build, json_settings, suggest, with_overrides
from bench.core.errors import UserError
from bench.core.syntax import parse_expression
from bench.method import Method

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
ATTRIBUTES = {name: get_args(hint)[0] for name, hint in get_type_hints(Method).items() if get_origin(hint) is ClassVar}
HOOKS = [name for name in vars(Method) if isfunction(getattr(Method, name)) or ismethod(getattr(Method, name))]
FAMILIES = ("objective", "posterior", "decoder", "optimisation", "prior", "reference")
SIMILAR = 0.9  # of two names, above which one is a misspelt other
MODIFIERS = ("schedule", "kl_term")  # keys of ``incompatible_with``


def check_method(cls: type[Method]) -> None:
    """Raise ``UserError`` with the first fault of a method class."""
    _check_attributes(cls)
    _check_hooks(cls)
    _check_settings(cls)
    _check_suites(cls)


def _check_attributes(cls: type[Method]) -> None:
    for name, hint in ATTRIBUTES.items():
        value = getattr(cls, name)
        try:
            TypeAdapter(hint, config=STRICT).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"'{name}' must be {_type_name(hint)}, not {value!r}: {reason}") from error
    for name in ("summary", "citation"):
        value = getattr(cls, name)
        if not value or "\n" in value:
            raise UserError(f"'{name}' must be one line of text: set it in the class body")
    if cls.family not in FAMILIES:
        raise UserError(f"'family' is '{cls.family}': {suggest(cls.family, FAMILIES)}")
    if cls.revision < 1:
        raise UserError(f"'revision' must be at least 1, not {cls.revision}")
    for name, values, choices in (
        ("modalities", cls.modalities, MODELS),
        ("incompatible_with", cls.incompatible_with, MODIFIERS),
    ):
        for value in values:
            if value not in choices:
                raise UserError(f"'{name}' has an unknown entry '{value}': {suggest(value, choices)}")


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "").replace("typing.", "")


def _check_hooks(cls: type[Method]) -> None:
    for name, value in vars(cls).items():
        if isfunction(value) and name not in HOOKS and (hooks := get_close_matches(name, HOOKS, 1, SIMILAR)):
            raise UserError(f"'{name}' is no hook: did you mean '{hooks[0]}'?")
    for name in HOOKS:
        hook = getattr(cls, name)
        parameters = list(signature(getattr(Method, name)).parameters)
        try:
            signature(hook).bind(**dict.fromkeys(parameters))
        except TypeError as error:  # not callable, or other parameters
            raise UserError(f"'{name}' must take the parameters ({', '.join(parameters)}): {error}") from error


def _check_settings(cls: type[Method]) -> None:
    parameters = getattr(cls.Config, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise UserError("'Config' must be decorated with @dataclass(frozen=True)")
    try:
        default = cls.Config()
        restored = build(cls.Config, json_settings(default), "Config")
    except Exception as error:  # anything that a dataclass's own check may raise
        raise UserError(f"every setting of 'Config' needs a JSON default of its annotated type: {error}") from error
    if restored != default:
        raise UserError(f"the settings of 'Config' change when stored as JSON: {default} became {restored}")
    for name in cls.display_params:
        if name not in asdict(default):
            raise UserError(f"'display_params' has an unknown setting '{name}': {suggest(name, asdict(default))}")
    for preset, settings in cls.preset_overrides.items():
        with_overrides(default, settings, f"'preset_overrides' of '{preset}'")
    if isinstance(cls.vae_settings, Mapping):
        with_overrides(default, cls.vae_settings, "'vae_settings'")


def _check_suites(cls: type[Method]) -> None:
    for suite, expressions in cls.suites.items():
        for expression in expressions:
            if parse_expression(expression)[0].name != cls.name:
                raise UserError(f"suite '{suite}' has '{expression}': only expressions of this method can be listed")
