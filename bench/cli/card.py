"""What there is to know about one method, from its class: for ``python -m bench list METHOD`` and the site."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, cast

from bench.core.citations import paper_links
from bench.core.space import Choice, Range

if TYPE_CHECKING:
    from bench.method import Method

WIDTH, NAME_WIDTH = 100, 21  # characters: of a line, and of the names of facts


def card(name: str) -> str:
    """Return everything about a method as text: its facts, settings, expected cost and documentation."""
    from bench.training import registry

    cls = registry.method(name)
    lines = [f"{heading(cls)}: {cls.summary}", ""]
    for fact, text in facts(cls, registry.suites()).items():
        indent = " " * (NAME_WIDTH + 2)
        if text:
            lines += textwrap.wrap(
                f"{fact:{NAME_WIDTH}}  {text}", WIDTH, subsequent_indent=indent, break_on_hyphens=False
            )
    if settings := setting_lines(cls):
        lines += ["", "settings", *(f"  {line}" for line in settings)]
    return "\n".join([*lines, "", about(cls)])


def heading(cls: type[Method]) -> str:
    """Return a method's name, with its name in papers if that is another one."""
    return f"{cls.name} ({cls.title})" if cls.title else cls.name


def about(cls: type[Method]) -> str:
    """Return the documentation of a method's file."""
    return inspect.getdoc(sys.modules[cls.__module__]) or ""


def facts(
    cls: type[Method],
    suites: Mapping[str, Sequence[str]],
    codes: Callable[[Iterable[str]], str] = ", ".join,
    code: Callable[[str], str] = str,
    link: Callable[[str], str] = str,
) -> dict[str, str]:
    """Return name -> text of the facts about a method; empty texts are those that it does not have.

    ``codes`` joins names and settings, ``code`` formats one, ``link`` a URL.
    """
    from bench.training.expressions import MODIFIER_NAMES

    at = cls.vae_settings
    joins = {suite: [row for row in rows if row in cls.suites.get(suite, ())] for suite, rows in suites.items()}
    footnotes = dict.fromkeys(cls.footnotes.values())
    return {
        "source": cls.citation,
        "family": cls.family,
        "for": " and ".join(cls.modalities),
        **{
            f"in preset {code(preset)}": codes(f"{key}={value}" for key, value in changed.items())
            for preset, changed in cls.preset_overrides.items()
        },
        "the basic VAE at": f"never: {at}" if isinstance(at, str) else codes(f"{k}={v}" for k, v in at.items()),
        "tuned": codes(f"{name}: {_values(space)}" for name, space in cls.space.items()),
        "suites": "; ".join(f"{suite}: {codes(rows)}" for suite, rows in joins.items() if rows),
        **{f"no {MODIFIER_NAMES[kind]} can be attached": reason for kind, reason in cls.incompatible_with.items()},
        "columns that mean something else, or nothing": "; ".join(
            f"{codes(name for name, text in cls.footnotes.items() if text == note)}: {note}" for note in footnotes
        ),
        "links": ", ".join(map(link, paper_links(f"{cls.citation} {about(cls)}"))),
        "modifiers": codes(fitting_modifiers(cls)),
        "cost of a step": expected_costs(cls),
    }


def _values(space: Range | Choice) -> str:
    """Return the values that tuning tries, as text."""
    if isinstance(space, Choice):
        return " | ".join(map(str, space.values))
    return f"{space.low:g} … {space.high:g}" + (" (logarithmic)" if space.log else "")


def setting_lines(cls: type[Method]) -> list[str]:
    """Return the lines of a method's file that define its settings, with their comments."""
    return [_setting(cls.Config, each) for each in fields(cls.Config)]


def _setting(config: type, setting: Field) -> str:
    owner = next(cls for cls in config.__mro__ if setting.name in inspect.get_annotations(cls))
    lines = (line.strip() for line in inspect.getsource(owner).splitlines())
    return next(line for line in lines if line.startswith(f"{setting.name}:"))


def fitting_modifiers(cls: type[Method]) -> list[str]:
    """Return the modifiers that an expression of the method may have, as in ``+anneal``."""
    from bench.training.expressions import available_modifiers

    return [
        f"+{name}"
        for kind, classes in available_modifiers().items()
        if kind not in cls.incompatible_with
        for name in classes
        if name != cls.name
    ]


def expected_costs(cls: type[Method]) -> str:
    """Return the expected cost of a training step in every preset, in updates of the basic VAE."""
    from bench.data.dataset import DataInfo, Modality
    from bench.experiment.presets import load_preset, preset_names
    from bench.training.expressions import preset_default

    costs = []
    for modality in cls.modalities:
        data = DataInfo("", "", cast(Modality, modality), "", ())
        steps = {
            name: cls.create(preset_default(cls, name)).expected_cost(load_preset(name, modality).train, data)
            for name in preset_names(modality)
        }
        texts = {name: f"{cost:.2g}" for name, cost in steps.items()}
        same = len({*texts.values()}) == 1
        parts = [*texts.values()][:1] if same else [f"{text} in {name}" for name, text in texts.items()]
        costs.append(f"{modality}: {', '.join(parts)}")
    return f"about {'; '.join(costs)} (times a basic VAE's)"
