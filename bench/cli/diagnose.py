"""``python -m bench diagnose FILE.npz``: diagnose the posteriors of any VAE for posterior collapse."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.options import path
from bench.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ARRAYS = "mean and logvar [N, D], optionally labels [N]"


def add_parser(commands: Any) -> None:
    """Add the command ``diagnose`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "diagnose",
        help="diagnose the posteriors of any VAE for posterior collapse",
        description="Diagnose the posteriors of a VAE of any framework. FILE.npz holds the arrays mean and logvar "
        "[N, D], the natural logarithm of the variances, for N examples of a test set; optionally labels [N], and "
        "kl and kl_weight [T], logged during training. Nothing is written, except by --html.",
    )
    p.add_argument("file", type=path, metavar="FILE.npz", help=f"arrays {ARRAYS}")
    p.add_argument("--kl-weight", type=float, metavar="W", help="KL weight of the final objective, 1 for the ELBO")
    p.add_argument("--json", action="store_true", help="print the verdict and every number as JSON")
    p.add_argument("--html", type=path, metavar="FILE", help="write the diagnosis as a card to FILE.html")
    p.set_defaults(execute=execute, after_stop="nothing was changed")


def execute(args: argparse.Namespace) -> int:
    if args.kl_weight is not None and not math.isfinite(args.kl_weight):
        raise UserError(f"--kl-weight must be a number, not {args.kl_weight}")
    if args.html and (args.html.suffix != ".html" or args.html.is_dir()):
        raise UserError(f"--html {args.html}: give a file whose name ends in .html")
    arrays = _read(args.file)
    from bench.core.files import write_text
    from bench.diagnosis import diagnose
    from bench.diagnosis.inputs import HISTORY

    history = {name: arrays[name] for name in HISTORY if name in arrays}
    if unread := [name for name in arrays if name not in ("mean", "logvar", "labels", *HISTORY)]:
        print(f"not read: {', '.join(unread)} (only {ARRAYS}, kl and kl_weight are)", file=sys.stderr)
    diagnosis = diagnose(
        (arrays["mean"], arrays["logvar"]),
        labels=arrays.get("labels"),
        kl_weight=args.kl_weight,
        history=history or None,
    )
    if args.html:
        write_text(args.html, f"<!doctype html><meta charset=utf-8><title>Diagnosis</title>{diagnosis._repr_html_()}\n")
        print(f"written: {args.html}", file=sys.stderr)
    print(json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False) if args.json else diagnosis)
    return 0


def _read(file: Path) -> dict[str, np.ndarray]:
    from bench.core.files import read_arrays

    if not file.is_file():
        raise UserError(f"no file '{file}': write one with numpy.savez, with the arrays {ARRAYS}")
    try:
        arrays = read_arrays(file)
    except Exception as error:  # of zipfile, zlib or NumPy
        raise UserError(f"{file} is not an .npz file of numbers: write it with numpy.savez") from error
    if missing := [name for name in ("mean", "logvar") if name not in arrays]:
        raise UserError(f"{file} has no array {' and no '.join(missing)}, but {', '.join(arrays)}: it needs {ARRAYS}")
    return arrays
