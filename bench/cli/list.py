"""``python -m bench list``: print methods, modifiers, suites, data sets and presets."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from bench.core.errors import UserError

NAME_WIDTH = 22  # characters

Section = tuple[str, list[tuple[str, str]]]  # heading; names with their descriptions


def add_parser(commands: Any) -> None:
    """Add the command ``list`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "list",
        help="print methods, modifiers, suites, data sets and presets",
        description="Print methods, modifiers (schedules and KL terms), suites, data sets and presets, or one of them.",
    )
    p.add_argument("kind", nargs="?", choices=SECTIONS, metavar="KIND", help=f"one of {', '.join(SECTIONS)}")
    p.set_defaults(execute=lambda args: print_list(args.kind), after_stop="nothing was changed")


def print_list(kind: str | None = None) -> int:
    """Print the sections of ``kind`` (None: all): wrapped on a terminal, one line per entry in a pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for sections in [SECTIONS[kind]] if kind else SECTIONS.values():
        for heading, entries in sections():
            print(heading)
            for name, text in entries:
                indent = f"  {name:{NAME_WIDTH}} "
                lines = textwrap.wrap(
                    text, max(width, 2 * NAME_WIDTH), initial_indent=indent, subsequent_indent=" " * 25
                )
                print("\n".join(lines))
    return 0


def _methods() -> Iterator[Section]:
    from bench.training import registry

    errors = registry.import_errors()
    yield "methods", [(name, errors.get(name) or _method(name)) for name in registry.suites()["all"]]


def _method(name: str) -> str:
    from bench.training import registry

    cls = registry.method(name)
    return _sentences(cls.summary, cls.citation, f"For {' and '.join(cls.modalities)}", _settings(cls.settings()))


def _modifiers() -> Iterator[Section]:
    from bench.training import expressions

    for kind, classes in expressions.available_modifiers().items():
        example = next(iter(classes))
        entries = [(f"+{name}", _modifier(cls)) for name, cls in classes.items()]
        yield f"modifiers: {expressions.MODIFIER_NAMES[kind]}, as in vae+{example}", entries


def _modifier(cls: type) -> str:
    summary = (cls.__doc__ or "").partition("\n")[0].rstrip(".").replace("``", "")
    return _sentences(summary, _settings(asdict(cls())))


def _suites() -> Iterator[Section]:
    from bench.training import registry

    yield "suites", [(name, ", ".join(members)) for name, members in registry.suites().items()]


def _datasets() -> Iterator[Section]:
    from bench.data.registry import dataset_names

    yield "data sets", [(name, _dataset(name)) for name in dataset_names()]


def _dataset(name: str) -> str:
    from bench.data.registry import load_dataset_module

    try:
        module = load_dataset_module(name)
    except UserError as error:
        return str(error)
    summary = module.SUMMARY + ("" if module.NEEDS_DOWNLOAD else " (no download)")
    return _sentences(summary, _settings(getattr(module, "SETTINGS", {})))


def _presets() -> Iterator[Section]:
    from bench.experiment.presets import load_preset, preset_names

    presets = [load_preset(name, "image") for name in preset_names()]
    yield "presets", [(p.name, f"{p.summary}; {p.seeds} seed{'s' * (p.seeds > 1)}") for p in presets]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _sentences(*parts: str) -> str:
    return ". ".join(part for part in parts if part)


SECTIONS = {
    "methods": _methods,
    "modifiers": _modifiers,
    "suites": _suites,
    "datasets": _datasets,
    "presets": _presets,
}
