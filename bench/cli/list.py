"""``python -m bench list``: print the names of methods, data sets, models, metrics and presets, or all about one."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from bench.core.config import suggest
from bench.core.errors import UserError

NAME_WIDTH, COLUMN, WIDTH = 22, 49, 100  # characters: of a name, and of the overview's columns and lines

Section = tuple[str, list[tuple[str, str]]]  # heading; names with their descriptions


def add_parser(commands: Any) -> None:
    """Add the command ``list`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "list",
        help="print methods, modifiers, suites, data sets, models and presets",
        description="Print the names of all methods, modifiers (schedules and KL terms), suites, data sets, models, "
        "metrics and presets on one screen, or everything about one of them.",
    )
    p.add_argument("what", nargs="?", metavar="WHAT", help=f"a name, or one of {', '.join(SECTIONS)}")
    p.set_defaults(execute=lambda args: print_list(args.what), after_stop="nothing was changed")


def print_list(what: str | None = None) -> int:
    """Print everything about a method, a suite or a kind; without one, all names on one screen."""
    if what is None:
        lines: Iterable[str] = overview()
    elif what in SECTIONS:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
        lines = [line for heading, entries in SECTIONS[what]() for line in (heading, *_entries(entries, width))]
    else:
        lines = _about(what)
    print("\n".join(lines))
    return 0


def overview() -> list[str]:
    """Return the names of everything: methods by family in two columns, then the other kinds, one line or two each."""
    from bench.data.registry import dataset_names
    from bench.evaluation.registry import metric_groups
    from bench.experiment.presets import preset_names
    from bench.models.registry import likelihood_names, model_names
    from bench.training import expressions, registry

    suites, errors = registry.suites(), registry.import_errors()
    families: dict[str, list[str]] = {}
    for name in suites["all"]:
        if name not in errors:
            cls = registry.method(name)
            families.setdefault(cls.family, []).append(_clipped(f" {name:14} {cls.summary}"))
    column = [line for family, members in families.items() for line in (f"{family} ({len(members)})", *members)]
    half = (len(column) + 1) // 2
    half += not column[half - 1].startswith(" ")  # no heading at the end of a column
    rows = zip_longest(column[:half], column[half:], fillvalue="")
    modifiers = [f"+{name}" for classes in expressions.available_modifiers().values() for name in classes]
    others = {
        "modifiers": modifiers,
        "suites": [suite for suite in suites if suite not in families] + ["or a family"],
        "data sets": [*dataset_names(), "or a path"],
        "models": model_names(),
        "likelihoods": likelihood_names(),
        "presets": preset_names(),
        "metrics": [*metric_groups()],
        "not usable": [*errors],
        "in full": ["python -m bench list NAME", f"or {', '.join(SECTIONS)}"],
    }
    return [
        *(f"{left:{COLUMN}}  {right}".rstrip() for left, right in rows),
        "",
        *(line for kind, names in others.items() if names for line in _entries([(kind, ", ".join(names))], WIDTH)),
    ]


def _clipped(line: str) -> str:
    """Return the line, or its first words that fit into a column of the overview."""
    return line if len(line) <= COLUMN else f"{line[: COLUMN - 1].rsplit(' ', 1)[0]} …"


def _about(what: str) -> list[str]:
    """Return the lines of a method, a suite or another name; ``UserError`` if there is none."""
    from bench.cli.card import card
    from bench.training import registry

    suites, names = registry.suites(), registry.method_names()
    if what in names:
        return [card(what)]
    if what in suites:
        return [*suites[what]]
    entries = {
        entry: text for section in SECTIONS.values() for _, found in section() for entry, text in found if entry == what
    }
    if entries:
        return [*_entries(entries.items(), WIDTH)]
    raise UserError(f"nothing is called '{what}': {suggest(what, {*names, *suites, *SECTIONS})}")


def _entries(entries: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield the lines of names with their descriptions."""
    for name, text in entries:
        indent, below = f"  {name:{NAME_WIDTH}} ", " " * (NAME_WIDTH + 3)
        yield from textwrap.wrap(text, max(width, 2 * NAME_WIDTH), initial_indent=indent, subsequent_indent=below)


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


def _described(describe: Callable[[str], str], names: Iterable[str]) -> list[tuple[str, str]]:
    """Return each name with its description, or why it has none."""
    entries = []
    for name in names:
        try:
            entries.append((name, describe(name)))
        except UserError as error:
            entries.append((name, str(error)))
    return entries


def _datasets() -> Iterator[Section]:
    from bench.data.registry import dataset_names

    yield "data sets", _described(_dataset, dataset_names())


def _dataset(name: str) -> str:
    from bench.data.registry import load_dataset_module

    module = load_dataset_module(name)
    summary = module.SUMMARY + ("" if module.NEEDS_DOWNLOAD else " (no download)")
    return _sentences(summary, _settings(getattr(module, "SETTINGS", {})))


def _models() -> Iterator[Section]:
    from bench.models.registry import model_names

    yield "models", _described(_model, model_names())


def _model(name: str) -> str:
    from bench.models.registry import load_model_module, modalities

    module = load_model_module(name)
    return _sentences(
        module.SUMMARY, f"For {' and '.join(modalities(module))} data", _settings(asdict(module.Config()))
    )


def _likelihoods() -> Iterator[Section]:
    from bench.models.registry import likelihood_names

    yield "likelihoods", _described(_likelihood, likelihood_names())


def _likelihood(name: str) -> str:
    from bench.models.registry import load_likelihood_module

    module = load_likelihood_module(name)
    return _sentences(module.SUMMARY, f"For {' and '.join(module.VALUES)} values", _settings(asdict(module.Config())))


def _presets() -> Iterator[Section]:
    from bench.experiment.presets import load_preset, preset_names

    presets = [load_preset(name, "image") for name in preset_names()]
    yield "presets", [(p.name, f"{p.summary}; {p.seeds} seed{'s' * (p.seeds > 1)}") for p in presets]


def _metrics() -> Iterator[Section]:
    from bench.evaluation.registry import metric_groups

    yield (
        "metric groups",
        [(name, _sentences(g.summary, ", ".join(g.metric_names))) for name, g in metric_groups().items()],
    )


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _sentences(*parts: str) -> str:
    return ". ".join(part for part in parts if part)


SECTIONS = {
    "methods": _methods,
    "modifiers": _modifiers,
    "suites": _suites,
    "datasets": _datasets,
    "models": _models,
    "likelihoods": _likelihoods,
    "metrics": _metrics,
    "presets": _presets,
}
