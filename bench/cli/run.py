"""``python -m bench run``: plan, prepare data, run what is missing, report."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import options
from bench.cli.execution import Plan, print_pending, report_results, run_missing
from bench.core.config import protocol_name
from bench.core.errors import UserError
from bench.core.numbers import counted
from bench.experiment.presets import fit_to_images, load_preset

if TYPE_CHECKING:
    from rich.console import Console

    from bench.data.dataset import DataInfo


EPILOG = """\
methods are expressions, joined by commas:
  vae  beta_vae(beta=0.2)  beta_vae(beta=0.2|0.4)  aggressive+anneal
  bn_vae+free_bits(target=4)+cyclical
or suites: core (six methods), paper (the rows of He et al., 2019), controls,
all, and the families objective, posterior, decoder, optimisation, prior,
reference.
The controls are added to every comparison, unless --no-controls is given.
'python -m bench list' prints every method, modifier and suite.

a study file has these options in TOML, by name: methods = ["vae"], seeds = 5,
set.train.epochs = 10. Options beside it replace its values, --set adds to them.

examples:
  python -m bench run --methods core --dataset glyphs
  python -m bench run --methods paper --dataset omniglot --preset small
"""


def add_parser(commands: Any) -> None:
    """Add the command ``run`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "run",
        help="train and evaluate what is missing, then report",
        description="Train methods against posterior collapse under one protocol, evaluate them\nalike, and write "
        "tables and figures. Finished cells are not run again; after an\ninterruption the same command resumes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(p)
    p.add_argument("study", nargs="?", type=options.path, metavar="STUDY", help="file with options (.toml)")
    p.add_argument("--save", type=options.path, metavar="FILE", help="write these options to a study file, and exit")
    p.add_argument(
        "--list",
        nargs="?",
        const=True,
        metavar="WHAT",
        help="print all names, or everything about one method, suite or kind, and exit",
    )
    p.set_defaults(execute=execute, parser=p)


def add_arguments(
    p: argparse.ArgumentParser, methods: str = "core", dataset: str = "glyphs", controls: bool = True
) -> None:
    """Add the options of a run, with its default methods and data set, and whether ``controls`` are added."""
    p.set_defaults(after_stop="the same command resumes from the last checkpoints", list=None, save=None, study=None)
    what = p.add_argument_group("what to run")
    what.add_argument(
        "--methods", default=methods, metavar="EXPR,…", help="method expressions and suites (default: %(default)s)"
    )
    what.add_argument(
        "--controls",
        action=argparse.BooleanOptionalAction,
        default=controls,
        help="add the suite controls to two rows or more; without it no row is ranked and no claim has a verdict "
        f"(default: --{'' if controls else 'no-'}controls)",
    )
    what.add_argument(
        "--dataset",
        default=dataset,
        metavar="DATA",
        help="a data set by name, a folder with train.txt, val.txt and test.txt, or an .npz file of images or vectors "
        "(default: %(default)s, without download)",
    )
    what.add_argument("--preset", default="quick", help="quick, small or paper (default: quick)")
    what.add_argument("--seeds", type=options.whole, metavar="N", help="number of seeds (default: the preset's)")
    what.add_argument("--seed", type=options.whole, default=0, metavar="S", help="base seed (default: 0)")
    what.add_argument(
        "--model",
        metavar="EXPR",
        help="a model, such as mlp(layers=3) (default: that of He et al., 2019; vectors: mlp)",
    )
    what.add_argument(
        "--likelihood",
        metavar="EXPR",
        help="a likelihood of images or vectors, such as gaussian(sigma=0.5) (default: that of the data)",
    )
    options.add_options(what, "--set")
    where = p.add_argument_group("where")
    where.add_argument("--out", type=options.path, default="out", metavar="OUT", help="output folder (default: out)")
    options.add_options(where, "--data-dir")
    how = p.add_argument_group("how")
    options.add_options(how, "--device", "--executor", "--cpus-per-cell", "--gpus-per-cell")
    how.add_argument("--address", metavar="HOST", help="address of a running Ray cluster")
    how.add_argument(
        "--track", choices=["tensorboard", "mlflow", "wandb"], help="log metrics there, too (default: nowhere)"
    )
    how.add_argument(
        "--tune",
        type=options.whole,
        metavar="K",
        help="tune every method with K trials per seed, the first at its defaults; the table shows the selected "
        "settings, trained again",
    )
    how.add_argument(
        "--select",
        default="nll",
        metavar="RULE",
        help="of trials, on validation: nll, the lowest NLL (default), or mi_at_nll:0.5, the most MI within "
        "0.5 nats of the tuned basic VAE",
    )
    how.add_argument(
        "--search",
        choices=["sobol", "optuna"],
        default="sobol",
        help="sobol: trials that do not depend on each other (default); optuna: its TPE, one trial after the other",
    )
    how.add_argument("--compile", action="store_true", help="train with torch.compile: --set train.compile=true")
    how.add_argument("--force", action="store_true", help="run finished cells again")
    how.add_argument("--dry-run", action="store_true", help="print the plan with the estimated time, and exit")


def execute(args: argparse.Namespace) -> int:
    if args.list:
        from bench.cli.list import print_list

        return print_list(None if args.list is True else args.list)
    if args.save:
        from bench.cli.study import save_study

        save_study(args.save, args, args.parser)
        print(shlex.join(["python", "-m", "bench", "run", str(args.save)]))
        return 0
    options.check_run(args)
    if args.track:
        from bench.experiment.tracking import check_tracker

        check_tracker(args.track)
    from bench.cli.progress import make_console
    from bench.experiment.plan import write_configs
    from bench.experiment.session import remove_leftovers
    from bench.experiment.sweeps import write_sweeps

    if args.force:  # it would start all cells again
        args.after_stop = "the same command without --force resumes from the last checkpoints"
    console = make_console()
    plan = make_plan(args, console)
    if args.tune is not None:
        from bench.cli.tune import tune

        return tune(args, console, plan)
    print_plan(console, args.out, plan, every_cell=args.dry_run)
    if args.dry_run:
        return 0
    write_sweeps(args.out, protocol_name(plan.preset.name, plan.preset.model), plan.sweeps)
    write_configs(plan.cells)
    if plan.pending:
        run_missing(console, args.out, plan)
    else:
        remove_leftovers(args.out)  # of a run that was killed after its last cell
    return report_results(console, args.out, plan)


def make_plan(args: argparse.Namespace, console: Console) -> Plan:
    """Parse the methods, prepare the data set and find out which cells are missing."""
    from bench.core.syntax import split_expressions
    from bench.data.cache import cache_dir
    from bench.data.registry import data_folder, prepare
    from bench.experiment.plan import plan
    from bench.experiment.runtime_estimate import estimate
    from bench.training.expressions import missing_controls, parse_methods, parse_settings

    settings, overrides = parse_settings([*args.set, *(["train.compile=true"] if args.compile else [])])
    rows, sweeps = parse_methods(split_expressions(args.methods), args.preset, settings)
    controls = missing_controls(rows, args.preset) if args.controls else []
    rows += controls
    with console.status("preparing the data set: up to a few minutes the first time"):
        data = prepare(args.dataset, data_folder(args.data_dir), cache_dir())
    data = replace(data, info=choose_model(args, overrides, data.info))
    preset = load_preset(args.preset, data.info.modality, overrides, data.info.protocol)
    preset = fit_to_images(preset, data.info.shape)
    device = options.resolve_device(args.device, args.gpus_per_cell, args.address)
    options.check_preset(preset, data.info, device, rows)
    seeds = preset.seeds if args.seeds is None else args.seeds
    if len(rows) * seeds > options.MAX_CELLS:
        raise UserError(f"{len(rows)} methods × {seeds:,} seeds exceed {options.MAX_CELLS:,} cells: split the run")
    cells = plan(rows, data.info, preset, seeds, args.seed, device, args.out, args.force)
    pending = [cell for cell in cells if cell.pending]
    seconds = estimate(pending, preset, data, device, args.cpus_per_cell) if pending else {}
    resources = options.cell_resources(args, device)
    return Plan(data, preset, device, resources, cells, len(controls), pending, seconds, sweeps, args.track)


def choose_model(args: argparse.Namespace, overrides: dict[str, dict[str, Any]], info: DataInfo) -> DataInfo:
    """Put the model and the likelihood that were asked for into ``overrides``.

    Return the description of the data for them: grey images have 8-bit values for a likelihood of those.
    """
    from bench.models.registry import canonical_likelihood, canonical_model, takes_intensities, training_settings

    model = overrides.setdefault("model", {})
    if expression := args.likelihood or model.get("likelihood"):
        model["likelihood"] = canonical_likelihood(str(expression), info)
        if takes_intensities(str(expression), info):
            info = info.with_intensities()
    if info.values == "intensity":
        model["values"] = "intensity"
    default = "cnn" if info.values == "intensity" else None
    if expression := args.model or model.get("architecture") or default:
        model["architecture"] = canonical_model(str(expression), info.modality)
        overrides["train"] = training_settings(str(expression)) | overrides.get("train", {})
    return info


def print_plan(console: Console, out: Path, plan: Plan, every_cell: bool) -> None:
    """Print the number of cells and the estimated time, with ``every_cell`` for each cell to run."""
    from bench.experiment.schema import Status

    controls = f" ({counted(plan.controls, 'control')} added)" if plan.controls else ""
    skipped = sum(cell.status is Status.SKIPPED for cell in plan.cells)
    methods = len({cell.variant.expression for cell in plan.cells})
    console.print(
        f"{plan.data.info.title}, preset {plan.preset.name}: {counted(methods, 'method')}{controls} × "
        f"{counted(len(plan.cells) // methods, 'seed')} = {counted(len(plan.cells), 'cell')}, "
        f"{len(plan.cells) - len(plan.pending) - skipped} done{f', {skipped} skipped' * bool(skipped)}",
        markup=False,
    )
    print_pending(console, out, plan, every_cell)
