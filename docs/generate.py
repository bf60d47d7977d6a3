"""``python docs/generate.py``: write the parts of the documentation that come from the code and from ``results/``.

These are methods.md, schema.json, and the text between ``BEGIN`` and ``END`` in other pages. The cards of the methods
are written when the site is built (hooks.py).
"""

from __future__ import annotations

import csv
import html
import inspect
import io
import json
import re
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
COMMAND = "python docs/generate.py"
BEGIN, END = f"<!-- begin: written by {COMMAND} -->", "<!-- end -->"
TEMPLATES, RESULTS = DOCS / "templates", DOCS.parent / "results"
#: Columns of bench/diagnosis/evidence.csv; ``base``: the file of the method.
EVIDENCE = ["table", "base", "method", "n", "mi", "collapsed", "nll_minus_baseline"]
#: Title -> modality and the section of the presets that goes before it.
PROTOCOLS = {
    "Images": ("image", ""),
    "Text": ("text", ""),
    "Data set `synthetic`": ("text", "synthetic"),
    "Vectors": ("vector", ""),
    "Data set `linear_gaussian`": ("vector", "linear_gaussian"),
}
INTRODUCTION = f"""\
# Methods

One file each in `methods/`, which starts with its loss, source, defaults and deviations. In the table a method links
to that file, on the site to a card with its settings and search space. All methods have the model, data, budget and
evaluation of the preset ([protocol.md](protocol.md)). An expression names settings in parentheses:
`beta_vae(beta=0.4)`. `{COMMAND}` writes this page.
"""
NOT_INCLUDED = """\
Not included, because neither code nor a complete formula could be read:

- fraternal dropout for the decoder of a VAE (Petit & Corro, 2021, arXiv 2110.14945);
- NC-VAE, whose encoder discriminates between codes of data and of noise (2019, arXiv 1907.10430).

Not included, because every method here has one z with one q(z|x), of which every metric reads samples, mean and KL:

- ladder and other hierarchical VAEs (Sønderby et al., NeurIPS 2016, arXiv 1602.02282): their layers of z have
  priors that depend on the layer above and, in the ladder, posteriors that contain the decoder's own distributions.
"""


def pages() -> dict[Path, str]:
    """Return every generated page, and every page with a generated section."""
    from bench.reporting.readme import render

    sections = {
        DOCS.parent / "README.md": render(TEMPLATES / "table.md.j2", RESULTS),
        DOCS / "metrics.md": metric_groups(),
        DOCS / "protocol.md": presets(),
        DOCS / "reading.md": render(TEMPLATES / "example.md.j2", RESULTS),
    }
    pages = {page: _with_section(page, text) for page, text in sections.items()}
    evidence_file = DOCS.parent / "bench" / "diagnosis" / "evidence.csv"
    return {DOCS / "methods.md": methods(), DOCS / "schema.json": json_schema(), evidence_file: evidence(), **pages}


def evidence() -> str:
    """Return the published rows that ``bench.diagnose`` quotes: all methods where the basic VAE collapses."""
    rows = [EVIDENCE]
    for path in sorted(RESULTS.glob("tables/*-small.csv")):
        with path.open(encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        if not any(row["method"] == "vae" and float(row["collapsed"] or 0) > 0.5 for row in table):
            continue
        for row in table:
            if row["family"] != "reference" and row["method"] != "vae" and row["mi"]:
                values = {"table": path.stem.removesuffix("-small"), "base": _base(row["method"])}
                mi = {"mi": row["mi_not_collapsed"] or row["mi"]}
                rows.append([(values | row | mi)[name] for name in EVIDENCE])
    with io.StringIO(newline="") as text:
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


def _base(expression: str) -> str:
    """Return the name of the method in an expression, or of the one that is another name of the expression."""
    aliases = {getattr(cls, "same_as", ""): cls.__module__.rpartition(".")[2] for cls in method_classes()}
    return aliases.get(expression) or re.split(r"[(+]", expression)[0]


def json_schema() -> str:
    """Return schema.json: one JSON Schema of all files of a cell."""
    from bench.experiment.schema import json_schema

    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _with_section(page: Path, text: str) -> str:
    before, rest = page.read_text("utf-8").split(f"{BEGIN}\n")
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def metric_groups() -> str:
    """Return a table of the metric groups and one of their metrics."""
    from bench.evaluation.registry import metric_groups

    lines = ["", "| group | measures | settings | by default |", "|---|---|---|---|"]
    for name, group in metric_groups().items():
        settings = _codes(f"{name}_{f.name}={f.default}" for f in fields(group.settings))
        lines.append(f"| `{name}` | {group.summary} | {settings} | {'yes' if group.default else 'no'} |")
    lines += ["", "| metric | column | definition | bias |", "|---|---|---|---|"]
    for name, group in metric_groups().items():
        context = {f.name: f"`{name}_{f.name}`" for f in fields(group.settings)}
        context |= {"plain": "the plain NLL", "unit": "nats", "evaluated": "on the test examples"}
        context |= {metric.name: f"`{metric.name}`" for metric in group.metrics}
        for metric in group.metrics:
            description = metric.description.format_map(context)
            lines.append(f"| `{metric.name}` | {metric.heading or '–'} | {description} | {metric.bias or '–'} |")
    return "\n".join([*lines, ""])


def method_classes() -> list[type]:
    """Return the methods in ``methods/``, in the order of the tables."""
    from bench.training import registry

    classes = [registry.method(name) for name in registry.suites()["all"]]
    return [cls for cls in classes if cls.__module__.startswith("bench.methods.")]  # not those of other packages


def methods() -> str:
    """Return methods.md: all methods in a table, suites and modifiers."""
    from bench.core.modifiers import SCHEDULES
    from bench.training import registry

    suites = registry.suites()
    lines = [
        INTRODUCTION,
        "| method | in a line | family | source |",
        "|---|---|---|---|",
        *map(_summary, method_classes()),
        "",
        "**Suites** (`--methods NAME`):",
        "",
        *(_item(f"`{suite}`: {_codes(rows)}") for suite, rows in suites.items() if suite != "all"),
        "- `all`: every method at its defaults",
        "",
        "**Schedules** of the KL weight, for any method without one of its own: `vae+anneal`, `beta_vae+cyclical`.",
        "",
        *(_modifier(name, cls) for name, cls in SCHEDULES.items()),
        "",
        "**Forms of the KL term**, for any method without one of its own, alone or with a schedule: "
        "`aggressive+free_bits(target=4)`, `bn_vae+free_bits+anneal`. The KL of `iaf_posterior`, `mixture_prior` and "
        "`vamp_prior` is no sum over dimensions: there `placement` is one of `total_…`.",
        "",
        *(_modifier(name, cls) for name, cls in registry.kl_terms().items()),
        "",
        "**Learning rate**: `vae+lr(scale=0.5)`, half the preset's. `--tune` tries 0.25 to 4 for every method, and the",
        "values that its card lists as *tuned*.",
        "",
        NOT_INCLUDED,
    ]
    return "\n".join(lines)


def _modifier(name: str, cls: type) -> str:
    """Return the item of a modifier in methods.md."""
    text = (inspect.getdoc(cls) or "").replace("``", "`")
    return _item(f"`+{name}({_settings(cls)})`: {text}")


def _summary(cls: type) -> str:
    """Return the row of a method in methods.md."""
    from bench.reporting.render import escape_markdown

    link = f"[`{cls.name}`](../methods/{cls.name}.py)"
    return f"| {link} | {escape_markdown(cls.summary)} | {cls.family} | {_with_links(cls.citation)} |"


def _with_links(citation: str) -> str:
    """Return a citation whose identifiers are links."""
    from bench.core.citations import IDENTIFIER, paper_link

    return IDENTIFIER.sub(lambda match: f"[{match[0]}]({paper_link(match[0])})", citation)


def card(cls: type) -> str:
    """Return the page of one method: the text of its file, its settings, and facts about it."""
    from bench.cli.card import about, facts, heading, setting_lines
    from bench.core.docstrings import sections
    from bench.training import registry

    documentation = sections(about(cls))
    lines = [f"# {heading(cls)}", "", f"<p>{_html(documentation.pop(''))}</p>", "", "<dl>"]
    lines += [f"<dt>{name}</dt><dd>{_html(text)}</dd>" for name, text in documentation.items()] + ["</dl>", ""]
    if settings := setting_lines(cls):
        lines += ["```python", *settings, "```", ""]
    items = facts(cls, registry.suites(), _codes, lambda name: f"`{name}`", lambda url: f"<{url}>") | {
        "source": _with_links(cls.citation)
    }
    return "\n".join([*lines, *(_item(f"{name}: {text}") for name, text in items.items() if text), ""])


def _html(text: str) -> str:
    return re.sub("``(.+?)``", r"<code>\1</code>", html.escape(text, quote=False))


def presets() -> str:
    """For each protocol a table of what the presets differ in, and of all of the evaluation."""
    from bench.experiment.presets import load_preset, preset_names

    lines = []
    for title, (modality, protocol) in PROTOCOLS.items():
        chosen = [load_preset(name, modality, protocol=protocol) for name in preset_names(modality)]
        lines += ["", f"### {title}", "", f"| setting | {' | '.join(f'`{preset.name}`' for preset in chosen)} |"]
        lines += ["|---" * (1 + len(chosen)) + "|", _row("seeds", [preset.seeds for preset in chosen])]
        same = []
        for section in ("model", "train", "evaluation"):
            settings = [_flat(getattr(preset, section)) for preset in chosen]
            for name in settings[0]:
                values = [each[name] for each in settings]
                if (section == "evaluation" and name != "pictures") or len({*values}) > 1:
                    lines.append(_row(f"{section}.{name}", values))
                elif section != "evaluation" and values[0] not in (None, False, ""):
                    same.append(f"{name}={values[0]}")
        lines += ["", textwrap.fill(f"The same in all of them: {_codes(same)}.", 120, break_on_hyphens=False)]
    return "\n".join([*lines, ""])


def _flat(settings: Any) -> dict[str, Any]:
    return (
        settings.to_flat()
        if hasattr(settings, "to_flat")
        else {f.name: getattr(settings, f.name) for f in fields(settings)}
    )


def _row(name: str, values: Iterable[Any]) -> str:
    return f"| `{name}` | {' | '.join(map(_value, values))} |"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else f"{value:,}" if type(value) is int else str(value)


def _settings(cls: type) -> str:
    return ", ".join(f"{f.name}={f.default}" for f in fields(cls))


def _codes(items: Iterable[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)


def _item(text: str) -> str:
    """An item of a list, in lines of at most 120 characters."""
    return textwrap.fill(
        " ".join(text.split()), 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    for path, text in pages().items():
        path.write_text(text, "utf-8")
        print(path)
