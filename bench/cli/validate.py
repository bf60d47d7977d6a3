"""What a command refuses before it trains or writes anything, each in a line that says what to do."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.config import ImageModelConfig, suggest
from bench.core.errors import UserError
from bench.core.provenance import cores, memory
from bench.experiment.presets import preset_names

if TYPE_CHECKING:
    from bench.data.dataset import DataInfo
    from bench.experiment.presets import Preset

CELLS = 100_000  # of a run: more are a slip of the finger, and would take hours to plan
THREADS = 1024  # of a cell on a machine elsewhere
TRAINING = 16  # bytes for each parameter at least: itself, its gradient and the optimiser's two averages


def check(args: argparse.Namespace) -> None:
    """Refuse, before anything is imported or written, what cannot work."""
    if args.preset not in preset_names():
        raise UserError(f"unknown preset '{args.preset}': {suggest(args.preset, preset_names())}")
    if not args.methods.strip(" ,"):
        raise UserError("--methods is empty: name methods or a suite, or see --list")
    check_counts(args, seeds=(1, CELLS), seed=(0, 2**63 - 1))
    check_workers(args)
    check_out(args.out)


def check_counts(args: argparse.Namespace, **ranges: tuple[int, int]) -> None:
    """Refuse options outside of these ranges, both ends within; None passes."""
    for name, (least, most) in ranges.items():
        value, option = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is not None and value < least:
            raise UserError(f"{option} takes a whole number from {least}, not {value}")
        if value is not None and value > most:
            raise UserError(f"{option} takes at most {most:,} here, not {value}")


def check_out(out: Path) -> None:
    """Make the output folder, or refuse what cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except (OSError, RecursionError) as error:  # of a path of a thousand folders
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write to --out {out} ({why}): give a folder that can be written") from error


def check_workers(args: argparse.Namespace) -> None:
    """Refuse what no worker can be given."""
    check_counts(args, cpus_per_cell=(1, THREADS if getattr(args, "address", None) else max(cores(), 1)))
    share = args.gpus_per_cell
    if share is not None and not (0 <= share <= 1 or (share < math.inf and share == int(share))):
        raise UserError(f"--gpus-per-cell takes a fraction of one GPU or a whole number of them, not {share:g}")


def check_fit(preset: Preset, data: DataInfo) -> None:
    """Refuse a protocol that this data set cannot be trained under."""
    if preset.train.batch_size > data.sizes["train"]:
        raise UserError(f"train.batch_size = {preset.train.batch_size}: there are only {data.sizes['train']} examples")
    if isinstance(preset.model, ImageModelConfig) and data.shape[-1] % preset.model.image_size:
        raise UserError(f"model.image_size = {preset.model.image_size} does not divide the images' {data.shape[-1]}")
    from bench.data.tensors import apply_model_config
    from bench.models.build import parameters

    needed, there = TRAINING * parameters(preset.model, apply_model_config(data, preset.model)), memory()
    if needed > there:
        raise UserError(
            f"a model of these sizes takes at least {needed / 2**30:,.0f} GiB to train, and this machine has "
            f"{there / 2**30:,.0f}: make it smaller with --set model.…"
        )


def check_arithmetic(preset: Preset, device: str) -> None:
    """Refuse a precision or a compilation that is not to be had here."""
    from bench.models.compilation import check_compiler
    from bench.models.precision import check_precision

    if preset.train.compile:
        check_compiler(device)
    for precision in (preset.train.precision, preset.evaluation.precision):
        check_precision(precision, device)


def data_folder(args: argparse.Namespace) -> Path | None:
    given = args.data_dir or os.environ.get("BENCH_DATA_DIR")
    if given and not os.path.isdir(given):
        raise UserError(f"the data folder '{given}' does not exist: give one with --data-dir or BENCH_DATA_DIR")
    return Path(given) if given else None


def resolve_device(args: argparse.Namespace) -> str:
    import torch

    there = torch.cuda.is_available()
    if not there and not args.address and (args.device == "cuda" or args.gpus_per_cell):
        raise UserError(
            "no GPU is available to torch here: leave out --device cuda and --gpus-per-cell, or use --device cpu"
        )
    if not args.address and (args.gpus_per_cell or 0) > torch.cuda.device_count():
        raise UserError(f"--gpus-per-cell {args.gpus_per_cell:g}: there are only {torch.cuda.device_count()} here")
    if args.device == "cpu" and args.gpus_per_cell:
        raise UserError("--gpus-per-cell asks for a GPU and --device cpu for none: leave one of them out")
    return ("cuda" if there else "cpu") if args.device == "auto" else args.device
