"""``report.html``: one self-contained page, with a section per group of cells. It makes no network requests."""

from __future__ import annotations

import base64
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from bench.core.files import dumps

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.core.provenance import Provenance
    from bench.experiment.cell_record import CellRecord
    from bench.experiment.schema import Component, MethodRecord
    from bench.reporting.groups import Group
    from bench.reporting.render import Document, Entry
    from bench.reporting.style import PlotStyle
    from bench.reporting.texts import Samples

TEMPLATES = Path(__file__).with_name("templates")
SYMBOLS = {**dict(zip("os^Dv", "●■▲◆▼", strict=True)), **dict(zip("PX<>ph", "✚✖◀▶⬟⬢", strict=True))}


@dataclass(frozen=True)
class Chip:
    """The marker of a method as text, in the method's colour."""

    symbol: str
    color: str


@dataclass(frozen=True)
class FigureItem:
    """One figure of the page: an image as a data URI, its alternative text and its caption."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Row:
    """One row of the tables, as a method's card lists it."""

    label: str
    chip: Chip
    settings: Mapping[str, Any]
    schedule: str
    kl_term: str
    notes: list[str]


@dataclass(frozen=True)
class Card:
    """What the page says about one method, with the rows that use it."""

    name: str
    summary: str
    citation: str
    about: str
    rows: list[Row] = field(default_factory=list)


def section(
    group: Group,
    document: Document,
    frame: DataFrame,
    rows: DataFrame,
    figures: Iterable[Path],
    samples: Mapping[str, Samples],
) -> str:
    """Return the HTML of one group: protocol, tables, claims, SVG figures, texts, methods and provenance."""
    from bench.reporting.style import plot_styles_for
    from bench.reporting.texts import DECODING

    chips = {method: _chip(style) for method, style in plot_styles_for(frame).items()}
    return _template("section.html").render(
        stem=document.label,
        document=document,
        letters={letter: text for text, letter in document.footnotes.items()},
        sort_value=sort_value,
        chips={row.label: chips[row.method] for row in rows.itertuples() if row.method in chips},
        settings={name: vars(getattr(group.cells[0].config, name)) for name in ("model", "train")}
        | {"evaluation": _evaluation_settings(group)},
        finished=sum(cell.status == "done" for cell in group.cells),
        missing=[row for row in frame.itertuples() if row.status != "done"],
        cells=list(frame.itertuples()),
        figures=[_figure(file, document.title) for file in figures],
        samples=samples,
        decoding=[*DECODING],
        methods=_cards(frame, chips),
        commands=_commands(frame),
        environments=_environments(frame),
    )


def page(sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the page of (stem, title, HTML of the section)."""
    style, script = (Markup((TEMPLATES / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    marked = [(stem, title, Markup(content)) for stem, title, content in sections]
    return _template("page.html").render(sections=marked, style=style, script=script)


@cache
def _template(name: str) -> Template:
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def sort_value(entry: Entry) -> str:
    """Return the number to sort a table entry by: its value, else the number its text begins with, else nothing."""
    value = entry.value
    if value is None:
        match = re.match(r"[-+−]?\d[\d,]*\.?\d*", entry.text)
        value = float(match[0].replace(",", "").replace("−", "-")) if match else math.nan
    return "" if math.isnan(value) else f"{value:.8g}"


def _chip(style: PlotStyle) -> Chip:
    return Chip(SYMBOLS[style.marker], "currentColor" if style.color == "#000000" else style.color)


def _figure(file: Path, title: str) -> FigureItem:
    from bench.reporting.figures import CAPTIONS

    caption = CAPTIONS[file.stem]
    data = base64.b64encode(file.read_bytes()).decode()
    return FigureItem(f"data:image/svg+xml;base64,{data}", f"{caption.split('. ')[0].rstrip('.')}: {title}", caption)


def _evaluation_settings(group: Group) -> dict[str, Any]:
    """Return the evaluation settings of the first evaluated cell, those of metric groups as ``group.setting``."""
    evaluation = next((cell.evaluation for cell in group.cells if cell.evaluation), None)
    if evaluation is None:
        return {}
    settings = dict(vars(evaluation.settings))
    for name, metric_group in evaluation.groups.items():
        settings |= {f"{name}.{key}": value for key, value in metric_group.settings.items()}
    return settings


def _cards(frame: DataFrame, chips: Mapping[str, Chip]) -> list[Card]:
    """Return one card per method; rows that differ only in settings, schedule or KL term share it."""
    cards: dict[str, Card] = {}
    for expression, cells in frame.groupby("method", sort=False):
        method = cells["cell"].iloc[0].config.method
        card = Card(method.name, method.summary, method.citation, method.about)
        cards.setdefault(method.name, card).rows.append(
            Row(
                label=cells["label"].iloc[0],
                chip=chips[expression],
                settings=method.config,
                schedule=_call(method.schedule),
                kl_term=_call(method.kl_term),
                notes=[*method.notes, *_footnotes(method)],
            )
        )
    return list(cards.values())


def _footnotes(method: MethodRecord) -> list[str]:
    columns = defaultdict(list)
    for column, text in method.footnotes.items():
        columns[text].append(column)
    return [f"{', '.join(names)}: {text}" for text, names in columns.items()]


def _call(component: Component | None) -> str:
    if component is None:
        return ""
    settings = ", ".join(f"{key}={value}" for key, value in component.settings.items() if value is not None)
    return component.name + (f"({settings})" if settings else "")


def _provenance(cell: CellRecord) -> Provenance | None:
    return cell.result.provenance if cell.result else None


def _commands(frame: DataFrame) -> list[tuple[str, list[str]]]:
    """Return every command that trained cells, with those cells as ``vae: seeds 0, 1``."""
    seeds: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in frame.itertuples():
        if provenance := _provenance(row.cell):
            seeds[provenance.command][row.method].append(row.seed)
    return [
        (command, [f"{method}: seed{'s' * (len(n) > 1)} {', '.join(map(str, n))}" for method, n in methods.items()])
        for command, methods in seeds.items()
    ]


def _environments(frame: DataFrame) -> list[tuple[dict[str, str], int]]:
    """Return where cells were trained (commit, versions, machine, threads, device), with the number of cells."""
    counts: dict[str, int] = defaultdict(int)
    environments: dict[str, dict[str, str]] = {}
    for cell in frame["cell"]:
        if provenance := _provenance(cell):
            machine = {key: value for key, value in vars(provenance.machine).items() if value is not None}
            values = {
                "commit": provenance.commit or "unknown",
                "versions": ", ".join(f"{name} {version}" for name, version in provenance.versions.items()),
                "machine": ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine.items()),
                "threads": str(provenance.threads),
                "device": cell.config.device,
            }
            key = dumps(values)
            counts[key] += 1
            environments[key] = {name: value for name, value in values.items() if value}
    return [(environments[key], count) for key, count in counts.items()]
