"""``report.html``: one self-contained page, with a section per group of cells. It makes no network requests."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bench.reporting.template import TEMPLATES, template

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.experiment.schema import MethodRecord
    from bench.reporting.groups import Group
    from bench.reporting.render import Document, Entry
    from bench.reporting.texts import Samples


def section(
    group: Group, document: Document, frame: DataFrame, images: Iterable[Path], samples: Mapping[str, Samples]
) -> str:
    """Return the HTML of one group: protocol, tables, claims, images, texts, methods and provenance."""
    from bench.reporting.texts import DECODING

    return template("section.html").render(
        stem=document.label,
        document=document,
        sort_value=sort_value,
        settings=_settings(group),
        cells=list(frame.itertuples()),
        figures={file.stem: _data_uri(file) for file in images},
        samples=samples,
        decoding=[*DECODING],
        methods=_methods(frame),
        commands=_commands(frame),
        environments=_environments(frame),
    )


def page(sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the page of (stem, title, HTML of the section)."""
    style, script = (Markup((TEMPLATES / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    marked = [(stem, title, Markup(content)) for stem, title, content in sections]
    return template("page.html").render(sections=marked, style=style, script=script)


def sort_value(entry: Entry) -> str:
    """Return the number to sort a table entry by: its value, else the number its text begins with, else nothing."""
    value = entry.value
    if value is None:
        match = re.match(r"[-+−]?\d[\d,]*\.?\d*", entry.text)
        value = float(match[0].replace(",", "").replace("−", "-")) if match else math.nan
    return "" if math.isnan(value) else f"{value:.8g}"


def _data_uri(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"


def _settings(group: Group) -> dict[str, dict[str, Any]]:
    """Return the settings of model, training and evaluation; those of metric groups are ``group.setting``."""
    config = group.cells[0].config
    settings = {"model": vars(config.model), "train": vars(config.train), "evaluation": {}}
    if evaluation := next((cell.evaluation for cell in group.cells if cell.evaluation), None):
        groups = evaluation.groups.items()
        settings["evaluation"] = vars(evaluation.settings) | {
            f"{name}.{key}": value for name, metric_group in groups for key, value in metric_group.settings.items()
        }
    return settings


def _methods(frame: DataFrame) -> dict[str, dict[str, MethodRecord]]:
    """Return method name -> table row -> its record, for the rows that differ in settings, schedule or KL term."""
    methods: dict[str, dict[str, MethodRecord]] = {}
    for row, cell in frame.groupby("method", sort=False)["cell"].first().items():
        methods.setdefault(cell.config.method.name, {})[str(row)] = cell.config.method
    return methods


def _commands(frame: DataFrame) -> dict[str, list[str]]:
    """Return command -> the cells that it trained, as ``vae: seeds 0, 1``."""
    commands: dict[str, list[str]] = {}
    trained = frame[[bool(cell.result and cell.result.provenance) for cell in frame["cell"]]]
    command = [cell.result.provenance.command for cell in trained["cell"]]
    for (name, method), seeds in trained.groupby([command, "method"], sort=False)["seed"]:
        text = f"{method}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        commands.setdefault(name, []).append(text)
    return commands


def _environments(frame: DataFrame) -> Counter[tuple[tuple[str, str], ...]]:
    """Count the cells by where they were trained: commit, versions, machine, threads and device."""

    def listed(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in values.items() if value is not None)

    environments: Counter[tuple[tuple[str, str], ...]] = Counter()
    for cell in frame["cell"]:
        if cell.result and (provenance := cell.result.provenance):
            values = {"commit": provenance.commit or "unknown", "versions": listed(provenance.versions)}
            values |= {"machine": listed(vars(provenance.machine)), "threads": str(provenance.threads)}
            environments[(*values.items(), ("device", cell.config.device))] += 1
    return environments
