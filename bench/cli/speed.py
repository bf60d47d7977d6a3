"""``python -m bench speed``: speed, operations and memory of each method and model size on random data.

Each method and size is measured in a process of its own, so that its peak of memory is its own. docs/performance.md
describes the columns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.options import add_options, check_out, check_range, path, resolve_device, whole
from bench.core import provenance
from bench.core.config import FULL_PRECISION, PRECISIONS
from bench.core.errors import UserError, error_summary
from bench.core.host import run_in_subprocess
from bench.experiment.presets import preset_names

if TYPE_CHECKING:
    from bench.experiment.schema import CellConfig

EPILOG = f"""\
models are SIZE:PRESET, joined by commas; presets: {", ".join(preset_names())}
  image      images of 28×28
  text       documents of 80 words, vocabulary of 20,001: the size of Yahoo
  synthetic  sentences of 10 words, vocabulary of 904, the paper's smaller model

examples:
  python -m bench speed
  python -m bench speed --methods vae,aggressive --models image:paper,text:paper
"""


def add_parser(commands: Any) -> None:
    """Add the command ``speed`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "speed",
        help="measure updates per second, memory and evaluation on this machine",
        description="Measure updates per second, operations, memory and evaluation of each method\nand model size on "
        "this machine, on random data: about two minutes by default.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--methods", default="core", metavar="EXPR,…", help="method expressions and suites (default: core)")
    p.add_argument("--models", default="image:quick,text:quick", metavar="SIZE:PRESET,…", help="(default: %(default)s)")
    p.add_argument("--precision", choices=PRECISIONS, default=FULL_PRECISION, help=f"default: {FULL_PRECISION}")
    p.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of updates for each row (default: 2)")
    p.add_argument("--threads", type=whole, default=1, metavar="N", help="processor threads (default: 1, as in a run)")
    add_options(p, "--device")
    p.add_argument("--out", type=path, default=Path("out"), help="folder for speed.csv (default: out)")
    p.set_defaults(execute=execute, after_stop="nothing is stored before everything is measured")


def execute(args: argparse.Namespace) -> int:
    check_range("--threads", args.threads, 1, max(provenance.cores(), 1))
    if not 0 < args.seconds <= 3600:
        raise UserError(f"--seconds must be a positive number up to 3,600, not {args.seconds:g}")
    check_out(args.out)
    import pandas as pd
    import torch

    from bench.experiment.benchmark import measure, peak_flops
    from bench.models.precision import check_precision
    from bench.training.torch_setup import gpu_name

    device = resolve_device(args.device)
    check_precision(args.precision, device)
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        tasks, skipped = plan_tasks(args, device, Path(folder))
        if not tasks:
            raise UserError("; ".join(skipped) or "nothing to measure: --methods or --models is empty")
        peak = run_in_subprocess(peak_flops, device, args.threads, args.precision)
        for number, (model, config, data) in enumerate(tasks, start=1):
            method = config.method.expression
            print(f"{number}/{len(tasks)} {method} at {model}", end="", flush=True)
            try:
                measurements = run_in_subprocess(measure, config, data, args.threads, args.seconds)
            except Exception as error:  # the other methods can still be measured
                print()
                failed.append(f"failed: {method} at {model}: {error_summary(error)}")
                continue
            print(": " + ", ".join(f"{_significant(m.ms_per_update)} ms per update ({m.update})" for m in measurements))
            rows += [{"model": model, "method": method, **vars(row)} for row in measurements]
    if not rows:
        raise UserError("; ".join(failed))
    table = pd.DataFrame(rows)
    table.insert(3, "updates_per_second", 1e3 / table["ms_per_update"])
    table.insert(6, "percent_of_peak", 1e14 * table["gflop_per_update"] / table["ms_per_update"] / peak)
    machine = provenance.machine(gpu_name(device))
    conditions = {
        "machine": machine.gpu or machine.processor,
        "threads": args.threads,
        "precision": args.precision,
        "torch": torch.__version__,
        "commit": provenance.commit() or "unknown",
        "peak_gflop_per_second": round(peak / 1e9),
    }
    print(f"\n{table.to_string(index=False, float_format=_significant)}\n")
    print("\n".join([*(f"{name}: {value}" for name, value in conditions.items()), *skipped, *failed]))
    table.assign(**conditions).to_csv(args.out / "speed.csv", index=False)
    print(f"written: {args.out / 'speed.csv'}")
    return 1 if failed else 0


def plan_tasks(
    args: argparse.Namespace, device: str, folder: Path
) -> tuple[list[tuple[str, CellConfig, Path]], list[str]]:
    """Return model size, config and random data of every cell to measure, and a line for each that is skipped."""
    from dataclasses import replace

    from bench.core.syntax import split_expressions
    from bench.experiment.benchmark import random_data
    from bench.experiment.plan import plan
    from bench.experiment.schema import Status
    from bench.training.expressions import parse_methods

    tasks, skipped = [], []
    for size in dict.fromkeys(split_expressions(args.models)):
        preset, data = random_data(size, folder)
        preset = replace(preset, train=replace(preset.train, precision=args.precision))
        rows, _ = parse_methods(split_expressions(args.methods), preset.name)
        for cell in plan(rows, data.info, preset, 1, 0, device, folder):
            if cell.status is Status.SKIPPED:
                skipped.append(f"skipped: {cell.variant.expression} at {size}, {cell.state.reason}")
            else:
                tasks.append((size, cell.config, data.path))
    return tasks, skipped


def _significant(value: float) -> str:
    """Three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
