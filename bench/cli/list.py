"""What ``--list`` prints: methods, what can be attached to them, suites, data sets, presets."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from bench.core.errors import UserError
from bench.data.registry import dataset_names, load_dataset_module
from bench.experiment.presets import load_preset, preset_names
from bench.training import expressions, registry

NAME = 22  # columns


def print_list() -> int:
    """Wrapped in a terminal; a line for each thing in a pipe, for grep."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for heading, entries in _sections():
        print(heading)
        for name, text in entries:
            indent = f"  {name:{NAME}} "
            print(textwrap.fill(text, max(width, 2 * NAME), initial_indent=indent, subsequent_indent=" " * len(indent)))
    return 0


def _sections() -> Iterator[tuple[str, Iterable[tuple[str, str]]]]:
    suites, broken = registry.suites(), registry.import_errors()
    yield "methods", [(name, broken.get(name) or _method(name)) for name in suites["all"]]
    for kind, forms in expressions.modifiers().items():
        heading = f"to attach: {expressions.MODIFIER_NAMES[kind]}, as in vae+{next(iter(forms))}"
        yield heading, [(f"+{name}", _form(cls)) for name, cls in forms.items()]
    yield "suites", [(name, ", ".join(members)) for name, members in suites.items()]
    yield "data sets", [(name, _dataset(name)) for name in dataset_names()]
    yield "presets", [(name, _preset(name)) for name in preset_names()]


def _method(name: str) -> str:
    cls = registry.method(name)
    return _sentences(cls.summary, cls.citation, f"For {' and '.join(cls.modalities)}", _settings(cls.settings()))


def _form(cls: type) -> str:
    return _sentences((cls.__doc__ or "").partition("\n")[0].rstrip(".").replace("``", ""), _settings(asdict(cls())))


def _dataset(name: str) -> str:
    try:
        module = load_dataset_module(name)
    except UserError as error:
        return str(error)
    summary = module.SUMMARY + ("" if module.NEEDS_DOWNLOAD else " (no download)")
    return _sentences(summary, _settings(getattr(module, "SETTINGS", {})))


def _preset(name: str) -> str:
    preset = load_preset(name, "image")
    return f"{preset.summary}; {preset.seeds} seed{'s' * (preset.seeds > 1)}"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _sentences(*parts: str) -> str:
    return ". ".join(part for part in parts if part)
