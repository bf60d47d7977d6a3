"""Study files: the options of a run in TOML, under their names on the command line.

    methods = ["vae", "beta_vae(beta=0.2|0.4)"]
    dataset = "synthetic"
    seeds = 5
    set.train.epochs = 10

Options given beside a file replace its values; ``--set`` adds to them. Paths are relative to the working folder.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core.config import suggest
from bench.core.errors import UserError
from bench.core.files import read_bytes, write_text
from bench.core.syntax import parse_value, split_expressions

SUFFIX = ".toml"
#: Options that are no part of a study.
EXCLUDED = ("help", "study", "save", "list", "dry_run")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return name in a study file -> option, for every option of a run that belongs to a study."""
    actions = (action for action in parser._actions if action.option_strings and action.dest not in EXCLUDED)
    return {action.option_strings[0].removeprefix("--"): action for action in actions}


def read_study(file: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the values in a study file by name of the parsed argument, as defaults of ``parser``.

    Raise ``UserError`` if the file cannot be read, or for an unknown name or a wrong value.
    """
    if file.suffix != SUFFIX:
        raise UserError(
            f"'{file}' belongs to no option: write --name value, with values joined by commas; "
            f"the name of a study file ends in {SUFFIX}"
        )
    try:
        content = tomllib.loads(read_bytes(file).decode())
    except ValueError as error:  # of UTF-8 or TOML
        raise UserError(f"{file} is no study file ({error}): 'python -m bench run --save {file}' writes one") from error
    known = options(parser)
    for name in content:
        if name not in known:
            raise UserError(f"{file} has no option '{name}': {suggest(name, known)}")
    return {known[name].dest: _value(file, name, known[name], value) for name, value in content.items()}


def _value(file: Path, name: str, action: argparse.Action, value: Any) -> Any:
    """Return a value of a study file as the parsed argument of its option."""
    if name == "set":
        if not isinstance(value, Mapping):
            raise UserError(f"{file}: 'set' takes settings by name, such as set.train.epochs = 10")
        return [f"{key}={_typed(entry)}" for key, entry in _flat(value)]
    if name == "methods" and isinstance(value, list):
        value = ",".join(map(str, value))
    if action.nargs == 0:  # a flag
        if not isinstance(value, bool):
            raise UserError(f"{file}: '{name}' takes true or false, not {value!r}")
        return value
    if isinstance(value, (bool, list, Mapping)) or value == "":
        raise UserError(f"{file}: '{name}' takes one value, not {value!r}")
    try:
        result = action.type(str(value)) if callable(action.type) else str(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{file}: '{name}': {error}") from error
    if action.choices and result not in action.choices:
        raise UserError(f"{file}: '{name}' is one of {', '.join(map(str, action.choices))}, not '{result}'")
    return result


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested tables."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _typed(value: Any) -> str:
    """Return a value as it is typed after ``--set KEY=``."""
    if isinstance(value, list):
        return ",".join(map(_typed, value)) or "()"
    return str(value).lower() if isinstance(value, bool) else str(value)


def save_study(file: Path, args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Write the options of a run to a study file; those that are not given and have no default are left out."""
    if file.suffix != SUFFIX:
        raise UserError(f"--save {file}: the name of a study file ends in {SUFFIX}")
    lines = []
    for name, action in options(parser).items():
        value = getattr(args, action.dest)
        if name == "methods":
            lines += ["methods = [", *(f"    {_toml(row)}," for row in split_expressions(value)), "]"]
        elif name != "set" and value is not None and not (value is False and action.const):
            lines.append(f"{name} = {_toml(value)}")
    settings = {}
    for setting in args.set:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"cannot read --set {setting}: write method.setting=value or train.lr=0.01")
        value = parse_value(text)
        settings[key] = value if isinstance(value, (int, float)) else text  # the last one of a name counts
    lines += [f"set.{_key(key)} = {_toml(value)}" for key, value in sorted(settings.items())]
    write_text(file, "\n".join(lines) + "\n")


def _key(name: str) -> str:
    return ".".join(part if BARE_KEY.fullmatch(part) else _toml(part) for part in name.split("."))


def _toml(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
