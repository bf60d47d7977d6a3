"""Options that several commands share, and checks before anything is trained or written, which raise ``UserError``."""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.config import ImageModelConfig, convert, model_name, suggest
from bench.core.errors import UserError
from bench.core.files import expand_user
from bench.core.provenance import cores, memory
from bench.core.syntax import parse_value
from bench.experiment.presets import preset_names

if TYPE_CHECKING:
    from bench.data.dataset import DataInfo
    from bench.experiment.presets import Preset
    from bench.experiment.task import Resources
    from bench.training.expressions import MethodSpec

MAX_CELLS = 100_000  # of one run: more would take hours to plan
MAX_TRIALS = 1024  # of a method and seed
MAX_REMOTE_THREADS = 1024  # per cell on a cluster, whose machines are not known here
BYTES_PER_PARAMETER = 16  # the float32 parameter, its gradient and Adam's two moments


def path(text: str) -> Path:
    """Return the path of an argument. ``~`` is the home folder, also in ``--out=~/o``, where no shell replaces it."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: write . for the working folder")
    return expand_user(text)


def whole(text: str) -> int:
    """Return the whole number of an argument, which may be written as 1e3."""
    number = convert(parse_value(text), int)
    if type(number) is not int:
        raise argparse.ArgumentTypeError(f"write a whole number, not '{text}'")
    return number


SET = "a setting of a method (sa_vae.steps=10) or of the protocol (train.epochs=5, evaluation.iw_samples=100)"
OPTIONS: dict[str, dict[str, Any]] = {
    "--set": dict(action="append", default=[], metavar="KEY=VALUE", help=SET),
    "--data-dir": dict(type=path, metavar="DIR", help="folder with data sets (default: BENCH_DATA_DIR)"),
    "--device": dict(choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda if available"),
    "--executor": dict(
        choices=["ray", "local"], default="ray", help="ray: cells in parallel (default); local: in turn"
    ),
    "--cpus-per-cell": dict(type=whole, default=1, metavar="N", help="cores and threads (default: 1)"),
    "--gpus-per-cell": dict(type=float, metavar="F", help="GPUs or a fraction of one (default on a GPU: 1)"),
}


def add_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Add shared options."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def check_run(args: argparse.Namespace) -> None:
    """Check the arguments of a run that need no data set. Create the output folder."""
    if args.preset not in preset_names():
        raise UserError(f"unknown preset '{args.preset}': {suggest(args.preset, preset_names())}")
    if not args.methods.strip(" ,"):
        raise UserError("--methods is empty: name methods or a suite; 'python -m bench list' prints them")
    check_range("--seeds", args.seeds, 1, MAX_CELLS)
    check_range("--seed", args.seed, 0, 2**63 - 1)
    check_range("--tune", args.tune, 1, MAX_TRIALS)
    if args.search == "optuna" and not importlib.util.find_spec("optuna"):
        raise UserError("--search optuna needs the package optuna: pip install optuna")
    if args.tune is not None and args.force:
        raise UserError("--force cannot be combined with --tune: give another --out")
    check_workers(args)
    check_out(args.out)


def check_range(option: str, value: int | None, least: int, most: int) -> None:
    """Check that ``least <= value <= most``. None, an option not given, passes."""
    if value is not None and not least <= value <= most:
        raise UserError(f"{option} must be a whole number from {least} to {most:,}, not {value}")


def check_out(out: Path) -> None:
    """Create the output folder and check that it is writable."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"cannot write to --out {out} ({error.strerror or error}): give a writable folder") from error


def check_workers(args: argparse.Namespace) -> None:
    """Check the cores and GPUs per cell against this machine, or loosely for a cluster at ``--address``."""
    check_range("--cpus-per-cell", args.cpus_per_cell, 1, MAX_REMOTE_THREADS if args.address else max(cores(), 1))
    if args.address and args.executor == "local":
        raise UserError("--address contradicts --executor local: leave one of them out")
    share = args.gpus_per_cell
    if share is not None and not (0 <= share <= 1 or (share < math.inf and share == int(share))):
        raise UserError(f"--gpus-per-cell must be a fraction of one GPU or a whole number of GPUs, not {share:g}")


def cell_resources(args: argparse.Namespace, device: str) -> Resources:
    """Return the resources of a cell on ``cpu`` or ``cuda``."""
    from bench.experiment.task import Resources

    gpus = 1.0 if args.gpus_per_cell is None else args.gpus_per_cell
    return Resources(args.executor, args.cpus_per_cell, gpus if device == "cuda" else 0.0, args.address)


def check_preset(preset: Preset, data: DataInfo, device: str, rows: Sequence[MethodSpec]) -> None:
    """Check that preset and methods fit the data set, this machine's memory, and the arithmetic of ``device``."""
    image = isinstance(preset.model, ImageModelConfig)
    if image and preset.train.batch_size < 2:
        raise UserError("train.batch_size = 1, but batch normalisation needs 2 images: use --set train.batch_size=2")
    if preset.train.batch_size > data.sizes["train"]:
        raise UserError(
            f"train.batch_size = {preset.train.batch_size}, but the number of training examples is "
            f"{data.sizes['train']}: use --set train.batch_size={data.sizes['train']} or less"
        )
    from bench.models.compilation import check_compiler
    from bench.models.precision import check_precision

    check_methods(rows, preset, data)
    if preset.train.compile:
        check_compiler(device)
    for precision in (preset.train.precision, preset.evaluation.precision):
        check_precision(precision, device)


def check_methods(rows: Sequence[MethodSpec], preset: Preset, data: DataInfo) -> None:
    """Build every method's model on the meta device, and check that it can be built and fits this machine's memory."""
    import torch

    from bench.data.tensors import apply_model_config
    from bench.models.build import build_model, parameters

    info, name = apply_model_config(data, preset.model), model_name(preset.model, data.modality)
    _check_memory("the model", parameters(preset.model, info), "model")
    with torch.device("meta"):
        models = {latent: build_model(preset.model, info, latent) for latent in (True, False)}
        for row in {f"{row.method.name} {row.config}": row for row in rows if not row.method.skip(data, name)}.values():
            try:
                model = row.instance().build(deepcopy(models[row.method.latent]), info)
            except ValueError as error:
                raise UserError(f"{row.expression} cannot be built: {error}, or leave it out of --methods") from error
            except Exception:  # for example an operation that needs numbers; if it is a fault, the cell fails
                continue
            _check_memory(row.expression, sum(p.numel() for p in model.parameters()), row.method.name)


def _check_memory(what: str, parameters: float, section: str) -> None:
    needed = BYTES_PER_PARAMETER * parameters
    if needed > (available := memory()):
        raise UserError(
            f"training {what} takes at least {needed / 2**30:,.0f} GiB, this machine has "
            f"{available / 2**30:,.0f}: make it smaller with --set {section}.…"
        )


def resolve_device(device: str, gpus_per_cell: float | None = None, address: str | None = None) -> str:
    """Return ``cpu`` or ``cuda`` for ``--device``. A cluster at ``address`` may have GPUs that this machine lacks."""
    import torch

    available = torch.cuda.is_available()
    if not available and not address and (device == "cuda" or gpus_per_cell):
        raise UserError("torch finds no GPU here: leave out --device cuda and --gpus-per-cell, or use --device cpu")
    if not address and (gpus_per_cell or 0) > torch.cuda.device_count():
        raise UserError(
            f"--gpus-per-cell {gpus_per_cell:g}, but this machine has {torch.cuda.device_count()}: give less"
        )
    if device == "cpu" and gpus_per_cell:
        raise UserError("--gpus-per-cell contradicts --device cpu: leave one of them out")
    return ("cuda" if available else "cpu") if device == "auto" else device
