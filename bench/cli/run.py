"""python -m bench.run: plan, prepare data, run what is missing, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.validate import CELLS, check, check_arithmetic, check_fit, data_folder, resolve_device
from bench.core.errors import UserError, exit_status
from bench.experiment.presets import load_preset, preset_names

if TYPE_CHECKING:
    from rich.console import Console

    from bench.data.dataset import Prepared
    from bench.experiment.executor import Resources
    from bench.experiment.plan import PlannedCell
    from bench.experiment.presets import Preset

MAX_FAILURES_SHOWN = 50  # cells that failed, one by one

EPILOG = """\
methods are expressions, joined by commas:
  vae  beta_vae(beta=0.2)  beta_vae(beta=0.2|0.4|0.6)  aggressive+anneal  bn_vae+free_bits(target=4)+cyclical
or suites: core (six methods), paper (the eleven rows of He et al. 2019), all, and a family: objective, posterior,
decoder, optimisation, prior. Schedules and forms of the KL term are attached with +. --list shows every one.

examples:
  python -m bench.run --methods core --dataset glyphs
  python -m bench.run --methods paper --dataset omniglot --data-dir data --preset small --seeds 5
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Train methods against posterior collapse under one protocol, judge them by one evaluator, "
        "write tables and figures. Only what is missing is run; the same command goes on after an interruption.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = p.add_argument_group("what to run")
    what.add_argument("--methods", default="core", help="method expressions and suites (default: core)")
    what.add_argument(
        "--dataset",
        default="glyphs",
        help="data set by name, or a folder of train.txt, val.txt, test.txt, or an .npz of images "
        "(default: glyphs, which needs no download)",
    )
    what.add_argument("--preset", default="quick", help="quick, small or paper (default: quick)")
    what.add_argument("--seeds", type=int, metavar="N", help="how many seeds (default: the preset's)")
    what.add_argument(
        "--seed", type=int, default=0, metavar="S", help="base seed, from which all are derived (default: 0)"
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a method's setting (sa_vae.steps=10) or the protocol's (train.epochs=5, evaluation.iw_samples=100)",
    )
    where = p.add_argument_group("where")
    where.add_argument("--out", type=Path, default=Path("out"), help="folder for cells, tables, figures (default: out)")
    where.add_argument("--data-dir", type=Path, help="folder with data sets (default: BENCH_DATA_DIR)")
    how = p.add_argument_group("how")
    how.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda if there is one")
    how.add_argument("--executor", choices=["ray", "local"], default="ray", help="ray: cells side by side (default)")
    how.add_argument(
        "--cpus-per-cell", type=int, default=1, metavar="N", help="processor cores and threads (default: 1)"
    )
    how.add_argument("--gpus-per-cell", type=float, metavar="F", help="GPUs, or a fraction of one (default on cuda: 1)")
    how.add_argument("--address", help="of a running Ray cluster, whose nodes get code and data from here")
    how.add_argument(
        "--compile",
        action="store_true",
        help="train with torch.compile, that is --set train.compile=true",
    )
    how.add_argument("--force", action="store_true", help="train again what is there")
    how.add_argument("--dry-run", action="store_true", help="print the plan with estimated time, and stop")
    how.add_argument("--list", action="store_true", help="print methods, suites, data sets and presets, and stop")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_status(lambda: run(args), "the same command goes on from the last checkpoints")


def run(args: argparse.Namespace) -> int:
    if args.list:
        from bench.cli.list import print_list

        return print_list()
    check(args)
    from rich.markup import escape

    from bench.cli.progress import Output
    from bench.core.syntax import split_expressions
    from bench.data.cache import cache_dir
    from bench.data.registry import prepare
    from bench.experiment.executor import Resources
    from bench.experiment.plan import plan
    from bench.experiment.session import remove_leftovers, write_configs
    from bench.experiment.sweeps import write_sweeps
    from bench.training.expressions import parse_methods, parse_settings

    console = Output(highlight=False, soft_wrap=True)
    settings, overrides = parse_settings([*args.set, *(["train.compile=true"] if args.compile else [])])
    expressions = split_expressions(args.methods)
    rows, sweeps = parse_methods(expressions, args.preset, settings)
    with console.status(escape(f"preparing {args.dataset}: up to a few minutes the first time")):
        data = prepare(args.dataset, data_folder(args), cache_dir())
    preset = load_preset(args.preset, data.info.modality, overrides, data.info.protocol)
    check_fit(preset, data.info)
    device = resolve_device(args)
    check_arithmetic(preset, device)
    gpus = (1.0 if args.gpus_per_cell is None else args.gpus_per_cell) if device == "cuda" else 0.0
    resources = Resources(args.executor, args.cpus_per_cell, gpus, args.address)
    seeds = preset.seeds if args.seeds is None else args.seeds
    if len(rows) * seeds > CELLS:
        raise UserError(f"{len(rows)} methods × {seeds:,} seeds are more than {CELLS:,} cells: run them in parts")
    cells = plan(rows, data.info, preset, seeds, args.seed, device, args.out, args.force)
    todo = [cell for cell in cells if cell.pending]

    counts = f"{len(rows)} method{'s' * (len(rows) > 1)} × {seeds} seed{'s' * (seeds > 1)}"
    of_them = f"{len(cells)} cell{'s' * (len(cells) > 1)}, {len(cells) - len(todo)} done"
    console.print(f"{data.info.title}, preset {preset.name}: {counts} = {of_them}")
    if todo:
        from bench.experiment.runtime_estimate import estimate

        seconds = estimate(todo, preset, data, device, args.cpus_per_cell)
        print_plan(console, args, data, seconds, resources)
    if args.dry_run:
        return 0
    write_sweeps(args.out, preset.name, sweeps)
    write_configs(cells)
    if todo:
        run_missing(console, args, todo, seconds, data, preset, resources)
    else:
        with suppress(OSError):
            remove_leftovers(args.out)
    return report_results(console, args.out, data, preset, todo)


def print_plan(
    console: Console, args: argparse.Namespace, data: Prepared, seconds: Mapping[Path, float], resources: Resources
) -> None:
    """What is going to run, how long it may take, and what to type for more."""
    from bench.core.format import duration
    from bench.core.syntax import split_expressions
    from bench.experiment.plan import plan
    from bench.experiment.runtime_estimate import can_measure, estimate, wall_clock
    from bench.training.expressions import parse_methods, parse_settings

    cells = f"{len(seconds)} cell{'s' * (len(seconds) > 1)} to run"
    if not can_measure(device := resolve_device(args)):
        console.print(f"{cells}; how long they take cannot be measured here, without a GPU")
        return
    side_by_side = resources.max_parallel(len(seconds))
    if args.dry_run:
        for path, each in seconds.items():
            console.print(f"  to run: {path.relative_to(args.out)}, about {duration(each)}")
    total = wall_clock(seconds.values(), side_by_side)
    console.print(f"{cells}, {side_by_side} at a time: about {duration(total)} on this machine")
    settings, overrides = parse_settings(args.set)
    for name in preset_names():
        if name == args.preset or overrides:
            continue
        other = load_preset(name, data.info.modality, protocol=data.info.protocol)
        rows, _ = parse_methods(split_expressions(args.methods), name, settings)
        planned = plan(rows, data.info, other, args.seeds or other.seeds, args.seed, device, args.out)
        todo = [cell for cell in planned if cell.pending]
        if not todo:
            continue
        guess = estimate(todo, other, data, device, args.cpus_per_cell)
        seeds = f"{args.seeds or other.seeds} seed{'s' * ((args.seeds or other.seeds) > 1)}"
        console.print(
            f"  --preset {name}: {other.summary}; {seeds}, about {duration(wall_clock(guess.values(), side_by_side))}"
        )


def run_missing(
    console: Console,
    args: argparse.Namespace,
    todo: Sequence[PlannedCell],
    seconds: Mapping[Path, float],
    data: Prepared,
    preset: Preset,
    resources: Resources,
) -> None:
    """Execute the cells, the longest first so that no core waits at the end; show how it goes and where time went."""
    from bench.cli.progress import CellStatus, Monitor
    from bench.experiment.runtime_estimate import planned_updates
    from bench.experiment.session import make_tasks, run_tasks

    for cell in todo:
        if cell.state.retrain_reason:
            console.print(f"archived and trained again ({cell.state.retrain_reason}): {cell.folder.path}", markup=False)
    order = sorted(todo, key=lambda cell: -seconds[cell.folder.path])
    updates = planned_updates(preset, data)
    watched = [
        CellStatus(
            cell.config.name,
            cell.folder,
            updates,
            seconds[cell.folder.path],
            preset.evaluation,
        )
        for cell in order
    ]
    tasks = make_tasks(order, data, preset.evaluation, resources)
    log = partial(console.print, markup=False)
    spent = run_tasks(args.out, tasks, resources, Monitor(watched, console), log)
    log(str(spent))
    for problem in spent.problems:
        log(f"a worker stopped: {problem}; the same command goes on")


def report_results(console: Console, out: Path, data: Prepared, preset: Preset, todo: Sequence[PlannedCell]) -> int:
    """Print the table and where the rest is; the exit status says whether every cell is done, and told."""
    from bench.core.provenance import cores
    from bench.experiment.cell_folder import lock_cell
    from bench.experiment.plan import cell_state
    from bench.reporting.report import build

    for cell in todo:
        if cell_state(cell.folder, preset.evaluation).status != "done":
            with lock_cell(cell.folder.path, timeout=None):
                pass  # another run, with --force, may be training it anew
    reported = False
    try:
        for report in build(out, log=lambda line: console.print(line, markup=False), processes=cores()):
            if (report.dataset, report.preset) == (data.info.name, preset.name):
                console.print(f"\n{report.text}", markup=False)
                console.print(report.locations(out), markup=False)
        reported = True
    except UserError as error:
        console.print(f"no report: {error}", markup=False)
    states = [(cell, cell_state(cell.folder, preset.evaluation)) for cell in todo]
    unfinished = [(cell, state) for cell, state in states if state.status != "done"]
    for cell, state in unfinished[:MAX_FAILURES_SHOWN]:
        why = state.reason or state.retrain_reason or f"{state.status}, interrupted"
        console.print(f"failed: {cell.config.name}: {why}", markup=False)
        console.print(f"  record: {cell.folder.path / 'result.json'}; the same command tries it again", markup=False)
    if left := len(unfinished[MAX_FAILURES_SHOWN:]):
        console.print(f"failed: {left} more, for reasons that the table gives; the same command tries them again")
    return 1 if unfinished else 0 if reported else 2


if __name__ == "__main__":
    sys.exit(main())
