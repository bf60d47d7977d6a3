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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch.quasirandom import SobolEngine

from bench.core.config import model_name
from bench.core.errors import UserError
from bench.core.hashing import derive_seed
from bench.data.dataset import DataInfo
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.metrics import COLLAPSED_BELOW
from bench.experiment.cell_folder import lock_cell
from bench.experiment.plan import PlannedCell, planned_cell
from bench.experiment.presets import Preset
from bench.experiment.tuning.record import FOLDER, Search, trial_metrics
from bench.training.expressions import MethodSpec, search_space, tuned_name, with_settings

#: Trials of a search before Optuna models them; its default is 10, more than most budgets here.
STARTUP = 4
#: What a finished trial no longer needs: only its records are read, and it is never evaluated on test.
DISPENSABLE = ("*.pt", "examples.parquet", "arrays.npz", "texts.json", "attempts.json")


@dataclass(frozen=True)
class Rule:
    """How a trial is selected: by the lowest NLL, or by the most MI within a margin of the basic VAE's NLL."""

    margin: float | None = None  # nats; None: by NLL alone

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule written as ``nll`` or ``mi_at_nll:0.5``."""
        match = re.fullmatch(r"nll|mi_at_nll:(\d+\.?\d*)", text)
        if not match:
            raise UserError(f"cannot read --select {text}: write nll, or mi_at_nll:0.5 for a margin of 0.5 nats")
        return cls(float(match[1]) if match[1] else None)

    def __str__(self) -> str:
        return "nll" if self.margin is None else f"mi_at_nll:{self.margin:g}"

    def select(self, trials: Sequence[tuple[float, float]], baseline: float = math.nan) -> int | None:
        """Return the number of the selected one of trials (NLL, MI), the first of equal ones; None if all failed.

        ``baseline``: NLL of the selected basic VAE. If no trial is within the margin, the lowest NLL is selected.
        Collapsed trials have equal MI, and of these the lowest NLL is selected.
        """
        finite = [number for number, (nll, _) in enumerate(trials) if math.isfinite(nll)]
        if self.margin is not None:
            near = [number for number in finite if trials[number][0] <= baseline + self.margin]
            if near:
                return min(near, key=lambda number: (-_mi_or_zero(trials[number][1]), trials[number][0]))
        return min(finite, key=lambda number: trials[number][0], default=None)


def _mi_or_zero(mi: float) -> float:
    """Return the MI of a trial, or 0 if it is collapsed, because the estimate is only noise then."""
    return mi if mi >= COLLAPSED_BELOW else 0.0


def trial_preset(preset: Preset) -> Preset:
    """Return the preset with the evaluation of trials: likelihood and MI on the validation examples."""
    examples = preset.train.val_examples
    evaluation = replace(preset.evaluation, split="val", test_examples=examples, pictures=0, metrics=("refined_iw",))
    return replace(preset, evaluation=evaluation)


def sobol_point(dimensions: int, seed: int, nlls: Sequence[float]) -> list[float]:
    """Return the point of a scrambled Sobol sequence for trial ``len(nlls)``, from 1: one position in [0, 1) each."""
    engine = SobolEngine(dimensions, scramble=True, seed=seed)
    return engine.fast_forward(len(nlls) - 1).draw(1)[0].tolist()


def optuna_point(dimensions: int, seed: int, nlls: Sequence[float]) -> list[float]:
    """Return the point that Optuna's TPE suggests for trial ``len(nlls)`` after trials with these NLLs.

    Trial 0, with the row's own settings, is not part of its history. Failed trials have the NLL NaN.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed % 2**32))
    unit: dict[str, Any] = {str(i): optuna.distributions.FloatDistribution(0.0, 1.0 - 1e-9) for i in range(dimensions)}
    for nll in nlls[1:]:
        trial = study.ask(unit)
        state = optuna.trial.TrialState.COMPLETE if math.isfinite(nll) else optuna.trial.TrialState.FAIL
        study.tell(trial, nll if math.isfinite(nll) else None, state)
    params = study.ask(unit).params
    return [params[name] for name in unit]


#: Name of a search -> the point of trial ``len(nlls)``, from 1, for a seed and the NLLs of the trials before it.
SEARCHES: dict[str, Callable[[int, int, Sequence[float]], list[float]]] = {
    "sobol": sobol_point,
    "optuna": optuna_point,
}
SEQUENTIAL = ("optuna",)  # a trial depends on those before it


@dataclass
class PlannedSearch:
    """The trials of a row in one repetition, planned so far."""

    row: MethodSpec
    seed: int
    trials: list[PlannedCell] = field(default_factory=list)


@dataclass(frozen=True)
class Planner:
    """Plans the cells of a tuning."""

    data: DataInfo
    preset: Preset
    base_seed: int
    device: str
    out: Path
    search: str = "sobol"

    def searches(self, rows: Iterable[MethodSpec], seeds: int) -> list[PlannedSearch]:
        """Return the search of every row that applies to the data, for each of ``seeds`` repetitions."""
        name = model_name(self.preset.model, self.data.modality)
        return [
            PlannedSearch(row, seed) for seed in range(seeds) for row in rows if not row.method.skip(self.data, name)
        ]

    def extend(self, search: PlannedSearch, count: int) -> list[PlannedCell]:
        """Plan trials up to a number of ``count``, and return the new ones."""
        before, preset = len(search.trials), trial_preset(self.preset)
        for number in range(before, count):
            seed = derive_seed(self.base_seed, "trial", number)
            search.trials.append(self._cell(self.trial_row(search), preset, search.seed, seed))
        return search.trials[before:]

    def trial_row(self, search: PlannedSearch) -> MethodSpec:
        """Return the row with the settings of the next trial: its own ones in the first."""
        space = search_space(search.row, self.preset.name)
        if not search.trials or not space:
            return search.row
        nlls = [_result(cell)[0] if self.search in SEQUENTIAL else math.nan for cell in search.trials]
        point = SEARCHES[self.search](len(space), derive_seed(self.base_seed, "search", search.seed), nlls)
        values = {place: values.at(position) for (place, values), position in zip(space.items(), point, strict=True)}
        return with_settings(search.row, values, self.preset.name)

    def final(self, search: PlannedSearch, number: int) -> PlannedCell:
        """Return the cell of the settings of a trial, on the seed that an untuned row has."""
        return self._cell(search.trials[number].variant, self.preset, search.seed, self.base_seed)

    def _cell(self, row: MethodSpec, preset: Preset, seed: int, base_seed: int) -> PlannedCell:
        return planned_cell(row, self.data, preset, seed, base_seed, self.device, self.out / FOLDER)


def is_baseline(row: MethodSpec) -> bool:
    """Return whether the row is the basic VAE."""
    return row.method.baseline and not row.modifiers


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


def discard_weights(cells: Iterable[PlannedCell], evaluation: EvaluationConfig) -> None:
    """Remove from trials that have all of ``evaluation`` what only another one would need."""
    for cell in cells:
        with lock_cell(cell.folder.path) as free:
            if free and not evaluation.missing(cell.folder.evaluation()):
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
            row=tuned_name(search.row, search.trials[0].config.preset),
            base_seed=base_seed,
            seed=search.seed,
            trials=tuple(cell.config.cell_id for cell in search.trials),
            selected=number,
            final=final.config.cell_id if final else None,
        )
        for search, number, final in zip(searches, selected, finals, strict=True)
    ]
