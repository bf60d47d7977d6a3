"""``python -m bench run --tune K``: trials of every method, then the selected settings, then the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.execution import Plan, print_pending, report_results, run_missing
from bench.core.config import protocol_name
from bench.core.errors import UserError
from bench.core.numbers import counted

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

    rule, data, preset, root = tuning.Rule.parse(args.select), plan.data.info, plan.preset, args.out / FOLDER
    rows = list({cell.variant.expression: cell.variant for cell in plan.cells}.values())
    controls = rows[len(rows) - plan.controls :]
    rows = rows[: len(rows) - plan.controls]
    if not any(map(tuning.is_baseline, rows)):  # tuned rows are compared with a tuned basic VAE
        rows = [*filter(tuning.is_baseline, controls), *rows]
        controls = [row for row in controls if row not in rows]
    if rule.margin is not None and not any(map(tuning.is_baseline, rows)):
        raise UserError("--select mi_at_nll compares with the basic VAE: add vae to --methods")
    planner = tuning.Planner(data, preset, args.seed, plan.device, args.out, args.search)
    searches = planner.searches(rows, len({cell.config.seed for cell in plan.cells}))
    if not searches:
        raise UserError("no method in --methods applies to this data set: name another")
    console.print(f"{data.title}, preset {preset.name}: {counted(len(rows), 'method')}, tuned", markup=False)
    control_plan = _part(args, plan, [cell for cell in plan.cells if cell.variant in controls], preset)
    _run(console, args.out, control_plan, "control", args.dry_run)
    # A search whose trials depend on the results of earlier ones is planned trial by trial, any other at once.
    in_turn, part, failures = args.search in tuning.SEQUENTIAL, tuning.trial_preset(preset), []
    for budget in range(1, args.tune + 1) if in_turn else [args.tune]:
        trials = [cell for search in searches for cell in planner.extend(search, budget)]
        _run(console, root, _part(args, plan, trials, part), "trial", args.dry_run)
        if args.dry_run:
            more = f"as many again for each of {counted(args.tune - 1, 'more trial')}, and " if in_turn else ""
            text = f"afterwards {more}{counted(len(searches), 'cell')} with the selected settings"
            console.print(text, markup=False)
            return 0
        tuning.discard_weights(trials, part.evaluation)
        failures += [line for cell in trials if (line := _failure(cell, part))]
    console.print("\n".join(failures), end="\n" * bool(failures), markup=False)
    selected = tuning.select(searches, rule)
    finals = [
        None if number is None else planner.final(search, number)
        for search, number in zip(searches, selected, strict=True)
    ]
    final_plan = _part(args, plan, [cell for cell in finals if cell], preset)
    _run(console, root, final_plan, "selected setting")
    tuned = Tuning(
        dataset=data.name,
        preset=protocol_name(preset.name, preset.model),
        trials=args.tune,
        search=args.search,
        select=str(rule),
        searches=tuple(tuning.searched(searches, selected, finals, args.seed)),
    )
    store(args.out, tuned)
    status = report_results(console, args.out, replace(plan, pending=[*control_plan.pending, *final_plan.pending]))
    return 1 if None in selected else status


def _failure(trial: PlannedCell, preset: Preset) -> str:
    """Return a line on a trial that has failed and is not selected; empty for any other."""
    from bench.experiment.plan import cell_state
    from bench.experiment.schema import Status

    state = cell_state(trial.folder, preset.evaluation)
    if state.status is Status.DONE:
        return ""
    return f"trial failed, not selected: {trial.config.name}: {state.reason or state.retrain_reason or 'interrupted'}"


def _part(args: argparse.Namespace, plan: Plan, cells: Sequence[PlannedCell], preset: Preset) -> Plan:
    """Return the plan of some cells, evaluated as ``preset`` says."""
    from bench.experiment.runtime_estimate import estimate

    pending = [cell for cell in cells if cell.pending]
    seconds = estimate(pending, preset, plan.data, plan.device, args.cpus_per_cell) if pending else {}
    return replace(plan, cells=list(cells), preset=preset, pending=pending, seconds=seconds)


def _run(console: Console, out: Path, part: Plan, noun: str, dry_run: bool = False) -> None:
    """Print what is missing of a part of the run, stored under ``out``, and run it."""
    from bench.experiment.plan import write_configs

    total = len(part.cells)
    if total:
        console.print(f"{counted(total, noun)}, {total - len(part.pending)} done", markup=False)
    print_pending(console, out, part, dry_run)
    if not dry_run:
        write_configs(part.cells)
        if part.pending:
            out.mkdir(exist_ok=True)
            run_missing(console, out, part)
