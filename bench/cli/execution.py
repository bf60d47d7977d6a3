"""The cells of a run and what they need; run those that are missing; report."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.config import protocol_name
from bench.core.errors import UserError
from bench.core.numbers import counted

if TYPE_CHECKING:
    from rich.console import Console

    from bench.data.dataset import Prepared
    from bench.experiment.plan import PlannedCell
    from bench.experiment.presets import Preset
    from bench.experiment.task import Resources


@dataclass(frozen=True)
class Plan:
    """The cells of a run and what they need."""

    data: Prepared
    preset: Preset
    device: str
    resources: Resources
    cells: list[PlannedCell]
    controls: int  # how many rows were added as controls
    pending: list[PlannedCell]  # the cells to run
    seconds: Mapping[Path, float]  # folder of a pending cell -> estimated time
    sweeps: Mapping[str, list[str]]  # sweep expression -> its rows
    tracker: str | None = None  # where metrics are logged, too


def print_pending(console: Console, out: Path, plan: Plan, every_cell: bool) -> None:
    """Print how many cells are to run and their estimated time, with ``every_cell`` for each of them.

    Before that, print which code has changed since cells were trained.
    """
    from bench.experiment.plan import changed_code
    from bench.experiment.runtime_estimate import about, can_measure, is_too_long, wall_clock

    log, pending = partial(console.print, markup=False), len(plan.pending)
    for module, cells in changed_code(plan.cells).items():
        file = os.path.relpath(sys.modules[module].__file__ or module)
        text = f"{counted(cells, 'stored cell')} of this run used other code of {file}"
        log(f"{text}: if the change matters, train {'it' if cells == 1 else 'them'} again with --force")
    if not pending:
        return
    if not can_measure(plan.device):
        log(f"{counted(pending, 'cell')} to run; the time cannot be estimated on a machine without a GPU")
        return
    trained = {cell.folder.path for cell in plan.pending if cell.state.trained}
    for path, seconds in plan.seconds.items() if every_cell else ():
        log(f"  to {'evaluate' if path in trained else 'run'}: {path.relative_to(out)}, {about(seconds)}")
    parallel = plan.resources.max_parallel(pending)
    total = wall_clock(plan.seconds.values(), parallel)
    needs = f", so it needs {'a GPU or ' * (plan.device == 'cpu')}more machines (--address)" * is_too_long(total)
    evaluated = f" ({len(trained)} of them trained: only their evaluation)" if trained else ""
    log(f"{counted(pending, 'cell')} to run{evaluated}, {parallel} at a time on this machine: {about(total)}{needs}")


def run_missing(console: Console, out: Path, plan: Plan) -> None:
    """Run the pending cells, the longest first, and show their progress."""
    from bench.cli.progress import CellProgress, RunProgress
    from bench.experiment.plan import longest_first
    from bench.experiment.runtime_estimate import can_measure, planned_updates
    from bench.experiment.session import run_tasks
    from bench.experiment.task import CellTask

    log, evaluation = partial(console.print, markup=False), plan.preset.evaluation
    for cell in plan.pending:
        if reason := cell.state.retrain_reason:
            log(f"archived and trained again ({reason}): {cell.folder.path}")
    cells = longest_first(plan.pending, plan.seconds)
    updates = planned_updates(plan.preset, plan.data)
    progress = [
        CellProgress(cell.config.name, cell.folder, updates, plan.seconds[cell.folder.path], evaluation)
        for cell in cells
    ]
    tasks = []
    for cell in cells:
        resources = plan.resources.for_memory(cell.variant.instance().expected_memory(plan.preset.train))
        shared = resources.cells_per_device(len(cells))
        folder, data = cell.folder.path, plan.data.path
        tasks.append(CellTask(cell.config, folder, data, evaluation, resources, shared, cell.forced))
    shown = RunProgress(progress, console, 1.0 if can_measure(plan.device) else None)
    stats = run_tasks(out, tasks, plan.resources, shown, log, plan.tracker)
    log(str(stats))


def report_results(console: Console, out: Path, plan: Plan) -> int:
    """Print the table, the paths of the report and the cells that failed.

    Return 0, or 1 where a cell is not done, or 2 where all are done but the report cannot be written.
    """
    from bench.core.provenance import cores
    from bench.experiment.plan import cell_state
    from bench.experiment.schema import Status
    from bench.reporting.report import build

    log, status = partial(console.print, markup=False), 0
    preset = protocol_name(plan.preset.name, plan.preset.model)
    try:
        for report in build(out, log=log, processes=cores()):
            if (report.dataset, report.preset) == (plan.data.info.name, preset):
                log(f"\n{report.text}\n{report.locations(out)}")
    except UserError as error:
        status = 2
        log(f"no report: {error}")
    for cell in plan.pending:
        state = cell_state(cell.folder, plan.preset.evaluation)
        if state.status is not Status.DONE:
            status = 1
            log(f"failed: {cell.config.name}: {state.reason or state.retrain_reason or 'interrupted'}")
            log(f"  record: {cell.folder.path / 'result.json'}; the same command retries it")
    return status
