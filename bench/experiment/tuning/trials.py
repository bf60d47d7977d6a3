"""Tuning: the same number of trials for every method, selected on validation; the selected settings are trained anew.

Trials and the cells of the selected settings are stored like those of a run, under ``OUT/tuning``. Trial 0 has the
row's own settings, the others are points of a scrambled Sobol sequence in the row's ``search_space``, so that more
trials extend fewer. Every repetition has its own sequence and selects by itself. In a repetition, trial t has the same
seed for every method, and the cell of the selected settings the seed that an untuned row has. Trials are measured on
validation alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from torch.quasirandom import SobolEngine

from bench.core.errors import UserError
from bench.core.hashing import derive_seed
from bench.data.dataset import DataInfo
from bench.experiment.cell_folder import lock_cell
from bench.experiment.plan import PlannedCell, planned_cell
from bench.experiment.presets import Preset
from bench.experiment.tuning.record import FOLDER, Search, trial_metrics
from bench.training.expressions import MethodSpec, search_space, with_settings

#: What a finished trial no longer needs: only its records are read, and it is never evaluated on test.
DISPENSABLE = ("*.pt", "examples.parquet", "arrays.npz", "texts.json", "attempts.json")


@dataclass(frozen=True)
class Rule:
    """How a trial is selected: by the lowest NLL, or by the most MI within a margin of the basic VAE's NLL."""

    margin: float | None = None  # nats; None: by NLL alone

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule written as ``nll_common`` or ``mi_at_nll:0.5``."""
        match = re.fullmatch(r"nll_common|mi_at_nll:(\d+\.?\d*)", text)
        if not match:
            raise UserError(f"cannot read --select {text}: write nll_common, or mi_at_nll:0.5 for a margin of 0.5 nats")
        return cls(float(match[1]) if match[1] else None)

    def __str__(self) -> str:
        return "nll_common" if self.margin is None else f"mi_at_nll:{self.margin:g}"

    def select(self, trials: Sequence[tuple[float, float]], baseline: float = math.nan) -> int | None:
        """Return the number of the selected one of trials (NLL, MI), the first of equal ones; None if all failed.

        ``baseline``: NLL of the selected basic VAE. If no trial is within the margin, the lowest NLL is selected.
        """
        finite = [number for number, (nll, _) in enumerate(trials) if math.isfinite(nll)]
        if self.margin is not None:
            near = [number for number in finite if trials[number][0] <= baseline + self.margin]
            if near:
                return max(near, key=lambda number: trials[number][1])
        return min(finite, key=lambda number: trials[number][0], default=None)


def trial_preset(preset: Preset) -> Preset:
    """Return the preset with the evaluation of trials: likelihood and MI on the validation examples."""
    examples = preset.train.val_examples
    evaluation = replace(preset.evaluation, split="val", test_examples=examples, pictures=0, metrics=("refined_iw",))
    return replace(preset, evaluation=evaluation)


def trial_rows(row: MethodSpec, preset: str, count: int, seed: int) -> list[MethodSpec]:
    """Return the row with the settings of every trial of a repetition, whose Sobol sequence has this ``seed``."""
    space = search_space(row, preset)
    if not space:  # all settings are given
        return [row] * count
    points = SobolEngine(len(space), scramble=True, seed=seed).draw(count - 1).tolist() if count > 1 else []
    settings = [
        {place: values.at(position) for (place, values), position in zip(space.items(), point, strict=True)}
        for point in points
    ]
    return [row, *(with_settings(row, changed, preset) for changed in settings)]


@dataclass(frozen=True)
class PlannedSearch:
    """The trials of a row in one repetition."""

    row: MethodSpec
    seed: int
    trials: list[PlannedCell]


def plan_trials(
    rows: Iterable[MethodSpec],
    data: DataInfo,
    preset: Preset,
    count: int,
    seeds: int,
    base_seed: int,
    device: str,
    out: Path,
) -> list[PlannedSearch]:
    """Return the trials of every row that applies to the data, for each of ``seeds`` repetitions."""
    root, preset = out / FOLDER, trial_preset(preset)
    return [
        PlannedSearch(
            row,
            seed,
            [
                planned_cell(trial, data, preset, seed, derive_seed(base_seed, "trial", number), device, root)
                for number, trial in enumerate(
                    trial_rows(row, preset.name, count, derive_seed(base_seed, "search", seed))
                )
            ],
        )
        for seed in range(seeds)
        for row in rows
        if not row.method.skip(data)
    ]


def is_baseline(row: MethodSpec) -> bool:
    """Return whether the row is the basic VAE."""
    return row.method.baseline and not row.modifiers


def plan_final(
    search: PlannedSearch, number: int, data: DataInfo, preset: Preset, base_seed: int, device: str, out: Path
) -> PlannedCell:
    """Return the cell of the settings of a trial, on the seed that an untuned row has."""
    return planned_cell(search.trials[number].variant, data, preset, search.seed, base_seed, device, out / FOLDER)


def select(searches: Sequence[PlannedSearch], rule: Rule) -> list[int | None]:
    """Return the number of the selected trial of every search, from the trials' records."""
    results = [[_result(cell) for cell in search.trials] for search in searches]
    by_nll = [Rule().select(trials) for trials in results]
    baseline = {
        search.seed: trials[best][0]
        for search, trials, best in zip(searches, results, by_nll, strict=True)
        if best is not None and is_baseline(search.row)
    }
    return [
        rule.select(trials, baseline.get(search.seed, math.nan))
        for search, trials in zip(searches, results, strict=True)
    ]


def _result(cell: PlannedCell) -> tuple[float, float]:
    evaluation = cell.folder.evaluation()
    return trial_metrics(evaluation.metrics if evaluation else {})


def discard_weights(cells: Iterable[PlannedCell]) -> None:
    """Remove from finished trials what only another evaluation would need."""
    for cell in cells:
        with lock_cell(cell.folder.path) as free:
            if free and cell.folder.evaluation():
                for file in chain.from_iterable(map(cell.folder.path.glob, DISPENSABLE)):
                    file.unlink(missing_ok=True)


def searched(
    searches: Sequence[PlannedSearch],
    selected: Sequence[int | None],
    finals: Sequence[PlannedCell | None],
    base_seed: int,
) -> list[Search]:
    """Return the records of the searches: which trial was selected, and the cell of its settings."""
    return [
        Search(
            row=search.row.expression,
            base_seed=base_seed,
            seed=search.seed,
            trials=tuple(cell.config.cell_id for cell in search.trials),
            selected=number,
            final=final.config.cell_id if final else None,
        )
        for search, number, final in zip(searches, selected, finals, strict=True)
    ]
