"""python -m bench.speed: how fast each method trains and is evaluated here, by model size, on made-up data.

Each method and size is measured in a process of its own, so that its peak of memory is its own, through the trainer,
the context and the evaluation of a run. docs/performance.md says what each number means.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.core import provenance
from bench.core.config import FULL_PRECISION, PRECISIONS, suggest
from bench.core.errors import UserError, exit_status
from bench.core.files import replace as replace_file
from bench.data.cache import cached
from bench.data.dataset import SPECIALS, DataInfo, Prepared
from bench.experiment.presets import Preset, load_preset, preset_names

BATCHES = 8  # of made-up training data
#: Name -> modality, the presets' section that goes before it, shape of an example and words: those of the paper's sets.
NAMED: dict[str, tuple[str, str, tuple[int, ...], int]] = {
    "image": ("image", "", (28, 28), 0),
    "text": ("text", "", (82,), 20_001),
    "synthetic": ("text", "synthetic", (12,), 904),
}
WORDS = 4  # columns of words; the others are numbers
#: Column -> heading, and how a value is written in the printed table and in Markdown.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "model": ("model", str),
    "method": ("method", str),
    "precision": ("precision", str),
    "update": ("update", str),
    "updates_per_second": ("updates/s", lambda value: significant(value)),
    "seconds_per_update": ("ms/update", lambda value: significant(1000 * value)),
    "gflop_per_update": ("GFLOP/update", lambda value: significant(value)),
    "utilisation": ("of peak", lambda value: f"{value:.0%}"),
    "peak_memory_mb": ("memory (MB)", lambda value: f"{value:,.0f}"),
    "evaluated_per_second": ("evaluated/s", lambda value: significant(value)),
}
EPILOG = f"""\
models are MODEL:PRESET, joined by commas: {", ".join(NAMED)}; presets: {", ".join(preset_names())}
  image      images of 28×28
  text       documents of 80 words, 20,001 different ones: the size of Yahoo
  synthetic  sentences of 10 words, 904 different ones, with the smaller model that the paper has for them

examples:
  python -m bench.speed
  python -m bench.speed --methods vae,aggressive --models image:paper,text:paper --threads 2
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.speed",
        description="Updates per second, operations, utilisation, memory and evaluation of each method and model size "
        "on this machine, on made-up data. Takes about two minutes by default.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--methods", default="core", help="method expressions and suites (default: core)")
    p.add_argument("--models", default="image:quick,text:quick", help="model sizes (default: image:quick,text:quick)")
    p.add_argument(
        "--precision", default=FULL_PRECISION, help="some of " + ", ".join(PRECISIONS) + " (default: float32)"
    )
    p.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of updates for each row (default: 2)")
    p.add_argument("--threads", type=int, default=1, metavar="N", help="processor threads (default: 1, as in a run)")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda if there is one")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder for speed.csv and speed.md (default: out)")
    p.set_defaults(address=None, gpus_per_cell=None)  # what bench.run's check of the device looks at
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_status(lambda: run(args), "nothing is stored before all is measured")


def run(args: argparse.Namespace) -> int:
    from bench.cli.validate import resolve_device
    from bench.experiment.benchmark import measure, peak_flops

    check(args)
    device = resolve_device(args)
    precisions = parse_precisions(args.precision, device)
    sizes = [parse_size(name) for name in listed("models", args.models)]
    with tempfile.TemporaryDirectory() as folder:
        tasks, skipped = planned(args, sizes, precisions, device, Path(folder))
        if not tasks:
            raise UserError("; ".join(skipped))
        peaks = {precision: run_in_subprocess(peak_flops, device, args.threads, precision) for precision in precisions}
        rows, failed = [], []
        for number, task in enumerate(tasks, start=1):
            name = f"{task['method']} at {task['model']}, {task['precision']}"
            print_progress(f"{number}/{len(tasks)} {name}")
            try:
                found = run_in_subprocess(measure, task)
            except Exception as error:  # its own: the others may still be measured
                failed.append(f"failed: {name}: {reason(error)}")
                continue
            for row in found:
                rows.append(row | {"utilisation": 1e9 * row["gflop_per_second"] / peaks[row["precision"]]})
    print_progress("")
    if not rows:
        raise UserError("; ".join(failed))
    notes = [*about(device, args.threads, peaks), *skipped, *failed]
    print("\n".join([text(rows), "", *notes]))
    store(args.out / "speed.csv", to_csv(rows))
    store(args.out / "speed.md", markdown(rows, notes))
    print(f"written: {args.out / 'speed.csv'}, {args.out / 'speed.md'}")
    return 1 if failed else 0


def check(args: argparse.Namespace) -> None:
    from bench.cli.validate import check_counts, check_out

    check_counts(args, threads=(1, max(provenance.cores(), 1)))
    if not 0 < args.seconds <= 3600:
        raise UserError(f"--seconds takes a positive number up to 3,600, not {args.seconds:g}")
    check_out(args.out)


def listed(option: str, words: str) -> list[str]:
    """What is joined by commas, each once."""
    found = [*dict.fromkeys(word.strip() for word in words.split(",") if word.strip())]
    if not found:
        raise UserError(f"--{option} is empty: leave it out for the default, or see --help")
    return found


def parse_precisions(words: str, device: str) -> list[str]:
    from bench.models.precision import check_precision

    for name in (names := listed("precision", words)):
        if name not in PRECISIONS:
            raise UserError(f"--precision {name}: {suggest(name, PRECISIONS)}")
        check_precision(name, device)
    return names


def parse_size(text: str) -> Size:
    name, _, preset = text.partition(":")
    if name not in NAMED:
        raise UserError(f"--models {text}: there is no model '{name}': {suggest(name, NAMED)}")
    if not preset:
        raise UserError(f"--models {text}: say which preset, such as {name}:quick")
    modality, protocol, shape, vocabulary = NAMED[name]
    return Size(text, load_preset(preset, modality, protocol=protocol), modality, shape, vocabulary)


@dataclass(frozen=True)
class Size:
    """A model and the preset's protocol for it, with the shape of the data that are made up for it."""

    name: str
    preset: Preset
    modality: str
    shape: tuple[int, ...]  # of an example, before the model's own cuts
    vocabulary: int  # of text

    def prepared(self, cache: Path) -> Prepared:
        """Made-up data: some batches to train on, one each to validate and test."""
        return cached(cache, self.name.replace(":", "-"), self.arrays)

    def arrays(self) -> tuple[DataInfo, dict[str, np.ndarray]]:
        import torch

        from bench.data.tensors import apply_model_config
        from bench.experiment.benchmark import EVALUATED
        from bench.experiment.runtime_estimate import random_batch

        batch = self.preset.train.batch_size
        counts = {"train": BATCHES * batch, "val": batch, "test": max(batch, EVALUATED)}
        info = DataInfo(self.name, f"made up for {self.name}", self.modality, "nats", self.shape, counts, "", "made up")
        info = apply_model_config(replace(info, vocabulary=self.vocabulary), self.preset.model)
        torch.manual_seed(0)
        arrays = {split: random_batch(self.preset.model, info, count).numpy() for split, count in counts.items()}
        if self.modality == "image":
            arrays = {split: images.squeeze(1) for split, images in arrays.items()}
        else:
            arrays = {split: rows.astype(np.int32) for split, rows in arrays.items()}
            words = [*SPECIALS, *map(str, range(len(SPECIALS), info.vocabulary))]
            arrays["vocabulary"] = np.array(words)
        return info, arrays


def planned(
    args: argparse.Namespace, sizes: Sequence[Size], precisions: Sequence[str], device: str, folder: Path
) -> tuple[list[dict], list[str]]:
    """What is to be measured, and what is left out and why."""
    from bench.core.syntax import split_expressions
    from bench.experiment.plan import plan
    from bench.training.expressions import parse_methods

    tasks: list[dict] = []
    skipped: list[str] = []
    for size in sizes:
        rows, _ = parse_methods(split_expressions(args.methods), size.preset.name)
        if not rows:
            raise UserError("--methods is empty: name methods or a suite")
        data = size.prepared(folder)
        for precision in precisions:
            preset = replace(size.preset, train=replace(size.preset.train, precision=precision))
            for cell in plan(rows, data.info, preset, 1, 0, device, folder):
                named = {"model": size.name, "method": cell.variant.expression, "precision": precision}
                if cell.status == "skipped":
                    skipped.append(f"left out: {named['method']} at {size.name}, {cell.state.reason}")
                else:
                    how = {"data": str(data.path), "threads": args.threads, "seconds": args.seconds}
                    tasks.append(named | how | {"config": cell.config})
    return tasks, [*dict.fromkeys(skipped)]


def run_in_subprocess(function: Callable, *given: Any) -> Any:
    """The result of a function in a new process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *given).result()


def reason(error: Exception) -> str:
    """Why a measurement failed, in one line."""
    if isinstance(error, BrokenProcessPool):
        return "its process was killed, most likely for lack of memory"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def about(device: str, threads: int, peaks: Mapping[str, float]) -> list[str]:
    """Where and how this was measured."""
    from bench.experiment.benchmark import EVALUATED, PEAK_SIZE

    known = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in peaks.items())
    here, versions = provenance.machine(device), provenance.versions()
    where = here.gpu or f"{here.processor}, {threads} thread{'s' * (threads > 1)} of {here.cores} cores"
    return [
        f"{where}; torch {versions['torch']}; commit {provenance.commit() or 'unknown'}; {provenance.now()}",
        f"peak: {known} GFLOP/s, the product of square matrices of {PEAK_SIZE[device]} rows in the same run",
        f"evaluated: test examples per second, basic metrics with {EVALUATED} samples each",
    ]


def shown(rows: Iterable[dict]) -> list[list[str]]:
    """The printed table: headings and rows. What is of a method, not of its update, stands in its first row alone."""
    lines = [[heading for heading, _ in COLUMNS.values()]]
    last: dict = {}
    for row in rows:
        cells = [write(row[name]) for name, (_, write) in COLUMNS.items()]
        if all(row[name] == last.get(name) for name in ("model", "method", "precision")):
            of_method = {"model", "method", "precision", "peak_memory_mb", "evaluated_per_second"}
            cells = ["" if name in of_method else cell for name, cell in zip(COLUMNS, cells, strict=True)]
        last = row
        lines.append(cells)
    return lines


def print_progress(line: str) -> None:
    """Where it has come to: over the line before, in a terminal."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def store(path: Path, content: str) -> None:
    replace_file(path, lambda file: file.write(content.encode()))


def significant(value: float) -> str:
    """Three that count, and all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def aligned(lines: list[list[str]]) -> list[list[str]]:
    """Cells padded to their columns: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = [str.ljust] * WORDS + [str.rjust] * (len(widths) - WORDS)
    return [[how(cell, width) for how, cell, width in zip(pad, line, widths, strict=True)] for line in lines]


def text(rows: list[dict]) -> str:
    heading, *lines = ["  ".join(cells).rstrip() for cells in aligned(shown(rows))]
    return "\n".join([heading, "-" * len(heading), *lines])


def markdown(rows: list[dict], notes: list[str]) -> str:
    heading, *lines = aligned(shown(rows))
    rule = ["-" * len(cell) if place < WORDS else "-" * (len(cell) - 1) + ":" for place, cell in enumerate(heading)]
    table = ["| " + " | ".join(cells) + " |" for cells in (heading, rule, *lines)]
    return "\n".join([*table, "", *(f"- {note}" for note in notes), ""])


def to_csv(rows: list[dict]) -> str:
    """Every row whole, numbers in full."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
