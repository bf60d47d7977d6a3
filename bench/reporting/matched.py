"""The comparisons of ``bench.reporting.compare`` as panels of a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bench.reporting.compare import Ranks, matched_rate, matched_time
from bench.reporting.frame import headline
from bench.reporting.render import DASH, Document, Entry, Panel, number

if TYPE_CHECKING:
    from pandas import DataFrame


def matched(made: Document, frame: DataFrame, sweeps: Mapping[str, Collection[str]]) -> list[Panel]:
    """The panels at matched rate and at matched time, as far as there is enough for them; ``made`` has their notes."""
    panels = []
    if (found := matched_rate(frame, sweeps)) is not None:
        plain = "" if headline(frame) == "nll_refined" else " (plain)"
        note = (
            f"mean and 95 % t interval over seeds of the NLL{plain}, read off lines through a sweep's members in the "
        )
        note += "order of their rate (KL), never beyond them"
        titles = [(f"NLL at {rate:g} nats", "nll", rate) for rate in sorted(found["rate"].unique())]
        titles += [(f"rec at {rate:g}", "rec", rate) for rate in sorted(found["rate"].unique())]
        letters = {"nll": (made.footnote(note),), "rec": (made.footnote("the distortion there"),)}
        heads = [Entry("sweep"), *(Entry(title, letters=letters[column]) for title, column, _ in titles)]
        grid = []
        for sweep, rows in found.groupby("sweep", sort=False):
            at = {row.rate: row for row in rows.itertuples()}
            grid.append([Entry(sweep), *(_entry(at.get(rate), column, column == "nll") for _, column, rate in titles)])
        panels.append(Panel("At matched rate", heads, grid))
    if (found := matched_time(frame)) is not None:
        note = (
            "best validation ELBO within as many seconds of training: quarter, half and whole of the quickest method's"
        )
        letter = (made.footnote(note),)
        times = sorted(found["seconds"].unique())
        heads = [Entry("method"), *(Entry(f"ELBO by {time:,.3g} s", letters=letter) for time in times)]
        labels = dict(zip(frame["method"], frame["label"], strict=True))
        grid = []
        for method, rows in found.groupby("method", sort=False):
            at = {row.seconds: row for row in rows.itertuples()}
            grid.append([Entry(labels[method]), *(_entry(at.get(time), "elbo", False) for time in times)])
        panels.append(Panel("At matched training time", heads, grid))
    return panels


def ranking(found: Ranks) -> Document:
    """Mean ranks over data sets as a table of their own."""
    made = Document(title=f"Mean ranks by NLL over {len(found.blocks)} data sets and presets", label="ranks")
    rows = [[Entry(method), Entry(number(rank, 2), value=rank)] for method, rank in found.ranks.items()]
    made.panels = [Panel("", [Entry("method"), Entry("mean rank")], rows)]
    p = "below 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    told = f"Friedman's test that all methods rank alike: statistic {found.statistic:.2f}, p {p}."
    apart = f"differ at 5 % (Nemenyi) where their mean ranks are at least {found.critical_difference:.2f} apart"
    made.notes = [told, f"Two methods {apart}." if found.p < 0.05 else "No two methods can be told apart."]
    made.notes.append(f"Over {', '.join(found.blocks)}.")
    return made


def _entry(row, name: str, interval: bool) -> Entry:
    value = math.nan if row is None else getattr(row, name)
    if math.isnan(value):
        return Entry(DASH)
    if interval:
        ends = ", ".join(number(getattr(row, f"{name}_{end}"), 2) for end in ("low", "high"))
        return Entry(f"{number(value, 2)} [{ends}]", value=value)
    return Entry(number(value, 2), number(getattr(row, f"{name}_sd"), 2), value=value)
