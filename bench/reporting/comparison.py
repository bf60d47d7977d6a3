"""The rows that two output folders share: how NLL, MI, collapse and cost differ, and whether the seeds tell them apart.

A difference is B − A. Over at least two seeds that both have it is paired; otherwise its interval is Welch's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.experiment.cell_record import CellRecord
from bench.reporting.frame import cells_frame, headline
from bench.reporting.groups import (
    Group,
    common_settings,
    differences,
    folders_by_preset,
    full_protocol,
    group_cells,
    tuned_groups,
)
from bench.reporting.paired import interval, relative_flops
from bench.reporting.statistics import NAN, Summary, same_share, summary, welch

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Change:
    """A number in A and in B, and B − A; ``differs``: its 95 % interval excludes 0."""

    a: float
    b: float
    difference: Summary
    differs: bool

    @classmethod
    def of(cls, a: float, b: float, difference: Summary) -> Change:
        return cls(a, b, difference, difference.low > 0 or difference.high < 0)


@dataclass(frozen=True)
class Row:
    """A method that A and B have. ``seeds``: finished ones of A and B; ``paired``: common ones, 0 without pairs.

    ``collapsed``: share of the seeds, compared by Fisher's exact test; None without z. ``notes``: what differs in
    the method itself.
    """

    method: str
    seeds: tuple[int, int]
    paired: int
    nll: Change
    mi: Change
    cost: Change
    collapsed: Change | None
    notes: tuple[str, ...]

    @property
    def differs(self) -> bool:
        changes = (self.nll, self.mi, self.cost, self.collapsed)
        return any(change is not None and change.differs for change in changes)


@dataclass(frozen=True)
class Comparison:
    """Two tables. ``differing``: in data, settings or protocol; ``metric``: that of ``Row.nll``."""

    stem: str
    differing: tuple[str, ...]
    metric: str
    rows: tuple[Row, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare(a: Path, b: Path) -> list[Comparison]:
    """Return a comparison for every table that two output folders share, those of the same protocol first.

    Raise ``UserError`` if one has no finished cells, or they share no data set and preset.
    """
    tables, others = _tables(a), _tables(b)
    pairs = [(stem, *pair) for stem in sorted(tables.keys() & others) for pair in _pairs(tables[stem], others[stem])]
    if not pairs:
        raise UserError(
            f"no data set and preset in common: {a} has {', '.join(tables)}, {b} has {', '.join(others)}; "
            "give two outputs with the same --dataset and --preset"
        )
    return [_compare(stem, one, other) for stem, one, other in pairs]


def _tables(out: Path) -> dict[str, list[Group]]:
    """Return the groups with finished cells by their stem, without the hash of a further protocol."""
    result: defaultdict[str, list[Group]] = defaultdict(list)
    for (dataset, preset), folders in folders_by_preset(out).items():
        groups = group_cells(f"{dataset}-{preset}", folders)
        groups += tuned_groups(out, dataset, preset, [cell for group in groups for cell in group.cells])
        for group in groups:
            if any(cell.status == "done" for cell in group.cells):
                result[re.sub(r"-[0-9a-f]{8}$", "", group.stem)].append(group)
    if not result:
        raise UserError(f"no finished cells under '{out}': give the --out folder of 'python -m bench run'")
    return dict(result)


def _pairs(groups: Iterable[Group], others: Iterable[Group]) -> list[tuple[Group, Group]]:
    """Return pairs of groups: those of the same protocol, then the rest in order, the largest groups first."""
    groups, others, pairs = [*groups], [*others], []
    for group in [*groups]:
        if same := next((other for other in others if not _differing(group, other)), None):
            pairs.append((group, same))
            groups.remove(group)
            others.remove(same)
    return pairs + [*zip(groups, others, strict=False)]


def _differing(a: Group, b: Group) -> list[str]:
    """Return in what two groups differ, as ``name A → B``, apart from their methods."""
    return _changes(_protocol(a.cells), _protocol(b.cells))


def _changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the entries in which two records differ, as ``name A → B``."""
    return [f"{name} {_text(_entry(one, name))} → {_text(_entry(other, name))}" for name in differences(one, other)]


def _protocol(cells: Iterable[CellRecord]) -> dict[str, Any]:
    """Return what determines the numbers of a group apart from its methods, with the settings of metric groups."""
    cells = [cell for cell in cells if cell.evaluation]
    record = full_protocol(cells[0])
    versions = sorted({cell.evaluation.version for cell in cells if cell.evaluation})
    return {
        **record,
        "data": record["data"][:12],
        "evaluation": {**record["evaluation"], **common_settings(cells), "version": versions},
    }


def _entry(record: Any, name: str) -> Any:
    for key in name.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "measured"
    return ",".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)


def _compare(stem: str, a: Group, b: Group) -> Comparison:
    one, other = (_finished(group) for group in (a, b))
    methods = [dict.fromkeys(frame["method"]) for frame in (one, other)]
    pairs = (methods, reversed(methods))
    only_a, only_b = (tuple(name for name in names if name not in rest) for names, rest in zip(*pairs, strict=True))
    metric = "nll" if headline(one) == headline(other) == "nll" else "iw_nll"
    same_data = a.cells[0].protocol["data"] == b.cells[0].protocol["data"]
    rows = [
        _row(method, one[one["method"] == method], other[other["method"] == method], metric, same_data)
        for method in methods[0]
        if method in methods[1]
    ]
    return Comparison(stem, tuple(_differing(a, b)), metric, tuple(rows), only_a, only_b)


def _finished(group: Group) -> DataFrame:
    """Return the finished cells of a group, with their ``cost`` relative to the baseline."""
    frame = cells_frame(group.cells)
    frame = frame[frame["status"] == "done"]
    baselines = frame[frame["baseline"]]
    return frame.assign(cost=relative_flops(frame, baselines[baselines["method"].isin(baselines["method"][:1])]))


def _row(method: str, a: DataFrame, b: DataFrame, metric: str, same_data: bool) -> Row:
    common = len({*a["replicate"]} & {*b["replicate"]}) if same_data else 0
    paired = common if common > 1 or common == len(a) == len(b) else 0

    def change(name: str) -> Change:
        difference = interval(b, name, a)[0] if paired else welch(a[name], b[name])
        return Change.of(summary(a[name]).mean, summary(b[name]).mean, difference)

    return Row(
        method, (len(a), len(b)), paired, change(metric), change("mi"), change("cost"), _collapsed(a, b), _notes(a, b)
    )


def _collapsed(a: DataFrame, b: DataFrame) -> Change | None:
    counts = [(int(frame["collapsed"].sum()), int(frame["collapsed"].count())) for frame in (a, b)]
    if not all(n for _, n in counts):
        return None
    one, other = (count / n for count, n in counts)
    difference = Summary(other - one, NAN, min(n for _, n in counts), NAN, NAN)
    return Change(one, other, difference, not same_share(*counts))


def _notes(a: DataFrame, b: DataFrame) -> tuple[str, ...]:
    """Return what differs in the method itself: its revision, and settings that its name does not show."""
    keys = {"revision", "config", "schedule", "kl_term"}
    one, other = (frame["cell"].iloc[0].config.method.model_dump(mode="json", include=keys) for frame in (a, b))
    return tuple(text.removeprefix("config.") for text in _changes(one, other))
