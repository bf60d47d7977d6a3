"""``python -m bench run --tune K``: trials of every method, then the selected settings, then the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.execution import Plan, count, print_pending, report_results, run_missing
from bench.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.experiment.plan import PlannedCell
    from bench.experiment.presets import Preset


def tune(args: argparse.Namespace, console: Console, plan: Plan) -> int:
    """Run what is missing of the controls, the trials and the selected settings; return the exit status.

    ``plan`` has the cells of the same command without ``--tune``.
    """
    from bench.experiment.tuning import trials as tuning
    from bench.experiment.tuning.record import FOLDER, Tuning, store

    rule, data, preset = tuning.Rule.parse(args.select), plan.data.info, plan.preset
    rows = list({cell.variant.expression: cell.variant for cell in plan.cells}.values())
    rows, controls = rows[: len(rows) - plan.controls], {row.expression for row in rows[len(rows) - plan.controls :]}
    if rule.margin is not None and not any(map(tuning.is_baseline, rows)):
        raise UserError("--select mi_at_nll compares with the basic VAE: add vae to --methods")
    seeds = len({cell.config.seed for cell in plan.cells})
    searches = tuning.plan_trials(rows, data, preset, args.tune, seeds, args.seed, plan.device, args.out)
    if not searches:
        raise UserError("no method in --methods applies to this data set: name another")
    trials = [cell for search in searches for cell in search.trials]
    control_plan = _part(args, plan, [cell for cell in plan.cells if cell.variant.expression in controls], preset)
    trial_plan = _part(args, plan, trials, tuning.trial_preset(preset))
    log = partial(console.print, markup=False)
    log(
        f"{data.title}, preset {preset.name}: {count(len(searches) // seeds, 'method')} × {count(seeds, 'seed')} × "
        f"{count(args.tune, 'trial')} = {count(len(trials), 'cell')}, {len(trials) - len(trial_plan.pending)} done; "
        f"afterwards {count(len(searches), 'cell')} with the selected settings"
    )
    for part, out in ((control_plan, args.out), (trial_plan, args.out / FOLDER)):
        print_pending(console, out, part, args.dry_run)
    if args.dry_run:
        return 0
    _run(console, args.out, control_plan)
    _run(console, args.out / FOLDER, trial_plan)
    selected = tuning.select(searches, rule)
    tuning.discard_weights(trials)
    finals = [
        None if number is None else tuning.plan_final(search, number, data, preset, args.seed, plan.device, args.out)
        for search, number in zip(searches, selected, strict=True)
    ]
    final_plan = _part(args, plan, [cell for cell in finals if cell], preset)
    print_pending(console, args.out / FOLDER, final_plan, False)
    _run(console, args.out / FOLDER, final_plan)
    records = tuple(tuning.searched(searches, selected, finals, args.seed))
    store(args.out, Tuning(dataset=data.name, preset=preset.name, trials=args.tune, select=str(rule), searches=records))
    return report_results(console, args.out, replace(plan, pending=[*control_plan.pending, *final_plan.pending]))


def _part(args: argparse.Namespace, plan: Plan, cells: Sequence[PlannedCell], preset: Preset) -> Plan:
    """Return the plan of some cells, evaluated as ``preset`` says."""
    from bench.experiment.runtime_estimate import estimate

    pending = [cell for cell in cells if cell.pending]
    seconds = estimate(pending, preset, plan.data, plan.device, args.cpus_per_cell) if pending else {}
    return replace(plan, cells=list(cells), preset=preset, pending=pending, seconds=seconds)


def _run(console: Console, out: Path, part: Plan) -> None:
    """Run what is missing of a part, stored under ``out``."""
    from bench.experiment.session import write_configs

    write_configs(part.cells)
    if part.pending:
        out.mkdir(exist_ok=True)
        run_missing(console, out, part)
