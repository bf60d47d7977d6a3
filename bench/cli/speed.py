"""``python -m bench speed``: speed, operations and memory of each method and model size on random data.

Each method and size is measured in a process of its own, so that its peak of memory is its own. docs/performance.md
describes the columns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.cli.validate import check_out, check_range, resolve_device
from bench.core import provenance
from bench.core.config import FULL_PRECISION, PRECISIONS
from bench.core.errors import UserError, error_summary
from bench.experiment.presets import preset_names

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.experiment.schema import CellConfig
    from bench.reporting.render import Document

T = TypeVar("T")
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
    p.add_argument("--threads", type=int, default=1, metavar="N", help="processor threads (default: 1, as in a run)")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda if available")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder for speed.csv and speed.md (default: out)")
    p.set_defaults(execute=execute, after_stop="nothing is stored before everything is measured")


def execute(args: argparse.Namespace) -> int:
    check_range("--threads", args.threads, 1, max(provenance.cores(), 1))
    if not 0 < args.seconds <= 3600:
        raise UserError(f"--seconds must be a positive number up to 3,600, not {args.seconds:g}")
    check_out(args.out)
    from bench.core.files import write_text
    from bench.experiment.benchmark import measure, peak_flops
    from bench.models.precision import check_precision
    from bench.reporting import render

    device = resolve_device(args.device)
    check_precision(args.precision, device)
    with tempfile.TemporaryDirectory() as folder:
        tasks, skipped = plan_tasks(args, device, Path(folder))
        if not tasks:
            raise UserError("; ".join(skipped))
        peak = run_in_subprocess(peak_flops, device, args.threads, args.precision)
        rows, failed = [], []
        for number, (model, config, data) in enumerate(tasks, start=1):
            method = config.method.expression
            print(f"{number}/{len(tasks)} {method} at {model}", flush=True)
            try:
                measured = run_in_subprocess(measure, config, data, args.threads, args.seconds)
            except Exception as error:  # the other methods can still be measured
                failed.append(f"failed: {method} at {model}: {error_summary(error)}")
                continue
            rows += [{"model": model, "method": method, **vars(row)} for row in measured]
    if not rows:
        raise UserError("; ".join(failed))
    import pandas as pd

    frame = pd.DataFrame(rows).assign(precision=args.precision, threads=args.threads, device=device)
    frame["updates_per_second"] = 1 / frame["seconds_per_update"]
    frame["gflop_per_second"] = frame["gflop_per_update"] / frame["seconds_per_update"]
    frame["utilisation"] = 1e9 * frame["gflop_per_second"] / peak
    document = make_document(frame, [*_notes(args, device, peak), *skipped, *failed])
    print(f"\n{render.text(document)}")
    write_text(args.out / "speed.csv", frame.to_csv(index=False))
    write_text(args.out / "speed.md", render.markdown(document))
    print(f"written: {args.out / 'speed.csv'}, {args.out / 'speed.md'}")
    return 1 if failed else 0


def plan_tasks(
    args: argparse.Namespace, device: str, folder: Path
) -> tuple[list[tuple[str, CellConfig, Path]], list[str]]:
    """Return model size, config and random data of every cell to measure, and a line for each that is skipped."""
    from dataclasses import replace

    from bench.core.syntax import split_expressions
    from bench.experiment.benchmark import parse_size
    from bench.experiment.plan import plan
    from bench.experiment.schema import Status
    from bench.training.expressions import parse_methods

    tasks, skipped = [], []
    names = [*dict.fromkeys(name.strip() for name in args.models.split(",") if name.strip())]
    if not names:
        raise UserError("--models is empty: name models, such as image:quick")
    for size in map(parse_size, names):
        rows, _ = parse_methods(split_expressions(args.methods), size.preset.name)
        if not rows:
            raise UserError("--methods is empty: name methods or a suite")
        data = size.prepared(folder)
        preset = replace(size.preset, train=replace(size.preset.train, precision=args.precision))
        for cell in plan(rows, data.info, preset, 1, 0, device, folder):
            if cell.status is Status.SKIPPED:
                skipped.append(f"skipped: {cell.variant.expression} at {size.name}, {cell.state.reason}")
            else:
                tasks.append((size.name, cell.config, data.path))
    return tasks, skipped


def run_in_subprocess(function: Callable[..., T], *args: object) -> T:
    """Return the result of a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *args).result()


def make_document(frame: DataFrame, notes: list[str]) -> Document:
    """Return the table: one panel per model, one row per kind of update."""
    from bench.reporting.render import Document, Entry, Panel

    heads = ["method", "update", "updates/s", "ms/update", "GFLOP/update", "of peak", "memory (MB)", "evaluated/s"]
    document = Document("Speed", "speed", notes=notes)
    for model, rows in frame.groupby("model", sort=False):
        lines = [
            [
                *(row.method, row.update, _significant(row.updates_per_second)),
                *(_significant(1000 * row.seconds_per_update), _significant(row.gflop_per_update)),
                *(f"{row.utilisation:.0%}", f"{row.peak_memory_mb:,.0f}", _significant(row.evaluated_per_second)),
            ]
            for row in rows.itertuples()
        ]
        entries = [[Entry(text) for text in line] for line in lines]
        document.panels.append(Panel(str(model), [Entry(head) for head in heads], entries))
    return document


def _notes(args: argparse.Namespace, device: str, peak: float) -> list[str]:
    """Return where and how this was measured."""
    from bench.experiment.benchmark import EVALUATED, PEAK_SIZE

    machine, torch = provenance.machine(device), provenance.versions()["torch"]
    where = machine.gpu or f"{machine.processor}, threads: {args.threads} of {machine.cores} cores"
    return [
        f"{where}; {args.precision}; torch {torch}; commit {provenance.commit() or 'unknown'}; {provenance.now()}",
        f"peak: {peak / 1e9:,.0f} GFLOP/s, the product of square matrices of {PEAK_SIZE[device]} rows in the same run",
        f"evaluated: test examples per second, basic metrics with {EVALUATED} samples each",
    ]


def _significant(value: float) -> str:
    """Three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
