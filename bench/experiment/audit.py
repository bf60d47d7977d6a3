"""The doubling audit: finished cells trained again with twice the updates, which must change neither of two results.

An audited cell has the settings and the seed of the original, but no learning-rate decay before the number of epochs
that the original ran. Warm-ups and cycles of the KL weight keep their length in updates; phases double with the budget,
and so do the times of the decays of a method whose last weights are selected.
Cells are stored like those of a run, under ``OUT/audit``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord, readable
from bench.experiment.convergence import converged, keeps_last, last_encoder_epoch, limit_reached, reached
from bench.experiment.schema import PROTOCOL_VERSION, CellConfig, Status, identify

FOLDER = "audit"
CONTROLS = "reference"  # family of the controls other than the baseline
NOTE = "twice the updates, at the undecayed rate until the original's end"
#: Factors of settings that are relative to the length of training.
FACTORS = {"ramp": 0.5, "cycles": 2}


@dataclass(frozen=True)
class Audit:
    """A finished cell, and the same cell with twice the updates."""

    before: CellRecord
    after: CellRecord

    @property
    def gain(self) -> float:
        """Return the gain of the criterion in nats, negative for a loss."""
        return reached(self.after) - reached(self.before)

    @property
    def verdicts(self) -> list[float | bool | None]:
        """Return whether z collapsed, before and after; None for a method without z."""
        evaluations = [cell.evaluation for cell in (self.before, self.after)]
        return [evaluation.metrics.get("collapsed") if evaluation else None for evaluation in evaluations]

    @property
    def passed(self) -> bool:
        """Return whether the criterion gained less than the tolerance and the verdict is the same.

        Where the last weights are kept, a loss counts like a gain.
        """
        before, after = self.verdicts
        gain = abs(self.gain) if keeps_last(self.before) else self.gain
        return gain < self.before.config.train.tolerance and before == after

    @property
    def failure(self) -> str:
        """Return what changed in a cell that did not pass; empty for one that passed."""
        if self.passed:
            return ""
        before, after = self.verdicts
        change = "" if before == after else ", no longer collapsed" if before else ", now collapsed"
        return f"gain {self.gain:.2f} nats{change}"

    @property
    def row(self) -> dict[str, Any]:
        """Return the row of ``tables/audit.csv``."""
        config, cells = self.before.config, {"before": self.before, "after": self.after}
        verdicts = (math.nan if verdict is None else int(verdict) for verdict in self.verdicts)
        return {
            "method": config.method.expression,
            "base_seed": config.base_seed,
            "seed": config.seed,
            **{f"updates_{when}": cell.history[-1].update for when, cell in cells.items()},
            **{f"criterion_{when}": reached(cell) for when, cell in cells.items()},
            "gain": self.gain,
            "tolerance": config.train.tolerance,
            **dict(zip(("collapsed_before", "collapsed_after"), verdicts, strict=True)),
            "passed": int(self.passed),
        }


def choose(cells: Iterable[CellRecord], share: float, rows: Collection[str] = ()) -> list[CellRecord]:
    """Return ``share`` of the finished cells of each (data set, preset), rounded up; with ``rows``, one cell of each.

    The families of methods take turns, each with its cell of the smallest id of a row that is not chosen yet, while
    there is one. The controls other than the baseline come last. Ids are hashes, so nobody chooses. Cells whose limit
    was reached, or of another protocol version, are left out.
    """
    groups: defaultdict[tuple[str, ...], list[CellRecord]] = defaultdict(list)
    for cell in filter(_is_auditable, cells):
        groups[cell.folder.parts[-4:-2]].append(cell)
    chosen = []
    for _, group in sorted(groups.items()):
        in_turns = _in_turns(group)
        if rows:
            first = {cell.config.method.expression: cell for cell in reversed(in_turns)}
            chosen += [first[row] for row in rows if row in first]
        else:
            chosen += in_turns[: math.ceil(round(share * len(group), 9))]
    return chosen


def unconverged(cells: Iterable[CellRecord]) -> list[CellRecord]:
    """Return the cells whose last updates gained too much: an audit decides whether they have converged."""
    return [cell for cell in cells if _is_auditable(cell) and not converged(cell)]


def _is_auditable(cell: CellRecord) -> bool:
    is_current = cell.config.protocol_version == PROTOCOL_VERSION
    return bool(cell.history) and is_current and cell.status is Status.DONE and not limit_reached(cell)


def _in_turns(cells: Iterable[CellRecord]) -> list[CellRecord]:
    """Return cells in the order in which they are chosen."""
    by_id = sorted(cells, key=lambda cell: cell.config.cell_id)
    by_row = _interleaved(by_id, lambda cell: cell.config.method.expression)
    by_family = _interleaved(by_row, lambda cell: cell.config.method.family)
    return sorted(by_family, key=lambda cell: cell.config.method.family == CONTROLS)


def _interleaved(cells: Iterable[CellRecord], key: Callable[[CellRecord], str]) -> list[CellRecord]:
    """Return the first cell of every key, then the second of every key, and so on, otherwise in the same order."""
    counts: Counter[str] = Counter()
    turns = []
    for cell in cells:
        turns.append((counts[key(cell)], cell))
        counts[key(cell)] += 1
    return [cell for _, cell in sorted(turns, key=lambda turn: turn[0])]


def doubled(cell: CellRecord) -> CellConfig:
    """Return the configuration of a finished cell with twice the updates."""
    config, method, train = cell.config, cell.config.method, cell.config.train
    schedule = method.schedule
    if schedule:
        schedule = schedule.model_copy(update={"settings": _rescaled(schedule.settings)})
    changes = {
        "method": method.model_copy(update={"config": _rescaled(method.config), "schedule": schedule}),
        "preset_notes": (*config.preset_notes, NOTE),
        "train": replace(
            train,
            epochs=2 * train.epochs,
            ramp=FACTORS["ramp"] * train.ramp,
            decay_from=len(cell.history),
            extra_updates_until=_extra_updates_until(cell),
        ),
    }
    config = config.model_copy(update=changes)
    return config.model_copy(update={"cell_id": identify(config)})


def _rescaled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a method or schedule whose warm-ups and cycles keep their length in updates."""
    return {
        name: value * FACTORS[name] if name in FACTORS and value is not None else value
        for name, value in settings.items()
    }


def _extra_updates_until(cell: CellRecord) -> float | None:
    """Return the limit on additional encoder updates: the epoch in which those of the original ended, else its limit.

    A rule of a method that waits for ``decay_from`` epochs would otherwise end them later.
    """
    train, last = cell.config.train, last_encoder_epoch(cell.history)
    if 0 < last < len(cell.history):
        return last / (2 * train.epochs)
    return None if train.extra_updates_until is None else train.extra_updates_until / 2


def unstarted(out: Path, cell: CellRecord) -> CellRecord:
    """Return the doubled cell without records, in its folder under ``OUT/audit``."""
    config, row = doubled(cell), Path(*cell.folder.parts[-5:-1])
    return CellRecord(out / FOLDER / row / f"seed-{config.seed}-{config.cell_id}", config, None, None, [])


def stored(out: Path, cells: Iterable[CellRecord]) -> list[Audit]:
    """Return the finished audits of ``cells`` that are stored under ``out``."""
    audited, _ = readable(cell_folders(out / FOLDER))
    after = {cell.config.cell_id: cell for cell in audited if cell.status is Status.DONE}
    finished = (cell for cell in cells if after and cell.status is Status.DONE)
    return [Audit(cell, after[cell_id]) for cell in finished if (cell_id := doubled(cell).cell_id) in after]


def summarise(audits: Iterable[Audit]) -> str:
    """Return how many cells passed, and which did not, in one line."""
    audits = list(audits)
    failed = [f"{audit.before.config.name} ({audit.failure})" for audit in audits if not audit.passed]
    text = (
        f"{len(audits) - len(failed)} of {len(audits)} cells gain little and keep their verdict when the updates double"
    )
    return f"Audit: {text}{'; not ' if failed else ''}{', '.join(failed)}."
