"""``report.html``: one page without any request to a network, of a section for every data set and preset."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.core.files import dumps
from bench.reporting.render import UNSHOWN

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.experiment.cell_record import CellRecord
    from bench.reporting.groups import Group
    from bench.reporting.render import Document, Entry

TEMPLATES = Path(__file__).with_name("templates")


def section(
    group: Group, document: Document, frame: DataFrame, rows: DataFrame, figures: Iterable[Path], texts: Mapping
) -> str:
    """One group as HTML: protocol, tables, claims, ``figures`` (files .svg), ``texts``, methods and provenance."""
    from bench.reporting.figures import CAPTIONS
    from bench.reporting.style import plot_styles_for
    from bench.reporting.svg import chip, inline

    chips = {method: Markup(chip(look)) for method, look in plot_styles_for(frame).items()}
    drawn = []
    for file in figures:
        caption = CAPTIONS.get(file.stem, file.stem)
        label = str(escape(caption.split(". ")[0].rstrip(".") + f": {document.title}"))
        drawn.append((Markup(inline(file.read_text("utf-8"), f"{document.label}-{file.stem}", label)), caption))
    return _template("section.html").render(
        stem=document.label,
        document=document,
        letters={letter: text for text, letter in document.footnotes.items()},
        number=sort_value,
        chips={row.label: chips[row.method] for row in rows.itertuples() if row.method in chips},
        settings={name: group.cells[0].config[name] for name in ("model", "train")}
        | {"evaluation": _evaluation(group)},
        finished=sum(cell.status == "ok" for cell in group.cells),
        missing=[row for row in frame.itertuples() if row.status != "ok"],
        cells=list(frame.itertuples()),
        figures=drawn,
        texts=texts,
        methods=_methods(frame, chips),
        commands=_commands(frame),
        places=_places(frame),
    )


def ranking(document: Document, figure: Path) -> str:
    """The mean ranks over all groups as a section."""
    from bench.reporting.figures import CAPTIONS
    from bench.reporting.svg import inline

    drawing = Markup(inline(figure.read_text("utf-8"), document.label, str(escape(document.title))))
    told = {"drawing": drawing, "caption": CAPTIONS["ranks"], "chips": {}, "number": sort_value}
    return _template("ranks.html").render(stem=document.label, document=document, **told)


def page(sections: Sequence[tuple[str, str, str, bool]]) -> str:
    """The whole page of (stem, title, section, whether its cells have changed since it was made)."""
    style, script = ((TEMPLATES / name).read_text("utf-8") for name in ("page.css", "page.js"))
    shown = [(stem, title, Markup(content), changed) for stem, title, content, changed in sections]
    return _template("page.html").render(sections=shown, style=Markup(style), script=Markup(script))


@cache
def _template(name: str) -> Any:
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    options["finalize"] = lambda value: value if isinstance(value, Markup) else without_controls(value)
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, **options
    ).get_template(name)


def without_controls(value: Any) -> Any:
    """Text but for control characters, of which lines and tabs stay, and for what turns the direction of a line."""
    return (
        re.sub(rf"(?![\n\t]){UNSHOWN.pattern}", "\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value
    )


def sort_value(entry: Entry) -> str:
    """What an entry of a table is sorted by: its number, else that which its text begins with, else nothing."""
    value = entry.value
    if value is None:
        found = re.match(r"[-+−]?\d[\d,]*\.?\d*", entry.text)
        value = float(found[0].replace(",", "").replace("−", "-")) if found else math.nan
    return "" if math.isnan(value) else f"{value:.8g}"


def _evaluation(group: Group) -> dict:
    """The settings by which the first cell with numbers was judged, those of optional groups among them."""
    evaluation = next((cell.evaluation for cell in group.cells if cell.evaluation), None) or {"settings": {}}
    groups = {name: each.get("settings", {}) for name, each in evaluation.get("groups", {}).items()}
    return {
        **evaluation["settings"],
        **{f"{name}.{key}": v for name, those in groups.items() for key, v in those.items()},
    }


def _methods(frame: DataFrame, chips: Mapping[str, Markup]) -> list[dict]:
    """A card for every method, of the rows it has: those that differ in settings or schedule alone share one."""
    cards: dict[str, dict] = {}
    for expression, cells in frame.groupby("method", sort=False):
        method = cells["cell"].iloc[0].config["method"]
        card = cards.setdefault(
            method.get("name", expression),
            {
                "name": method.get("name", expression),
                **{key: method.get(key) or "" for key in ("summary", "citation", "family", "about")},
                "rows": [],
            },
        )
        schedule, rate = ({**(method.get(key) or {})} for key in ("schedule", "kl_term"))
        card["rows"].append(
            {
                "label": cells["label"].iloc[0],
                "chip": chips[expression],
                "settings": {**(method.get("config") or {})},
                "schedule": _call(schedule.pop("name", ""), schedule),
                "kl_term": _call(rate.pop("name", ""), rate),
                "notes": [*method.get("notes", []), *_footnotes(method)],
            }
        )
    return list(cards.values())


def _footnotes(method: Mapping) -> list[str]:
    columns = defaultdict(list)
    for column, text in method.get("footnotes", {}).items():
        columns[text].append(column)
    return [f"{', '.join(names)}: {text}" for text, names in columns.items()]


def _call(name: str, settings: Mapping) -> str:
    given = ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)
    return f"{name}({given})" if given else name


def _provenance(cell: CellRecord) -> dict:
    return (cell.result or {}).get("provenance") or {}


def _commands(frame: DataFrame) -> list[tuple[str, list[str]]]:
    """Every command that made cells, and which: ``vae, seeds 0, 1``."""
    found: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in frame.itertuples():
        if command := _provenance(row.cell).get("command"):
            found[command][row.method].append(row.seed)
    return [
        (
            command,
            [f"{method}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" for method, seeds in made.items()],
        )
        for command, made in found.items()
    ]


def _places(frame: DataFrame) -> list[tuple[dict[str, str], int]]:
    """Where cells were made, and how many each: commit, versions, machine, threads, device."""
    counts: dict[str, int] = defaultdict(int)
    places: dict[str, dict[str, str]] = {}
    for cell in frame["cell"]:
        if made := _provenance(cell):
            machine = made.get("machine") or {}
            place = {
                "commit": made.get("commit") or "unknown",
                "versions": ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items()),
                "machine": ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine.items()),
                "threads": str(made.get("threads", "")),
                "device": str(cell.config.get("device", "")),
            }
            key = dumps(place)
            counts[key] += 1
            places[key] = {name: value for name, value in place.items() if value}
    return [(places[key], count) for key, count in counts.items()]
