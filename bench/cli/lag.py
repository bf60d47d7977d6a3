"""``python -m bench lag``: a run with a scalar latent, whose report shows inference lag over training."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli import run
from bench.core.errors import UserError

SCALAR = "model.latent_dim=1"


def add_parser(commands: Any) -> None:
    """Add the command ``lag`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "lag",
        help="train with a scalar latent and draw inference lag over training",
        description="Train methods with a scalar latent and draw how far q(z|x) lags behind the true posterior p(z|x) "
        f"over training (He et al., ICLR 2019, Figures 2 and 3). The same as 'python -m bench run --set {SCALAR}' "
        "with other defaults: every run with a scalar latent stores the trace.",
    )
    run.add_arguments(p, methods="lag", dataset="synthetic", controls=False)
    p.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    if any(setting.partition("=")[0].strip() == SCALAR.partition("=")[0] for setting in args.set):
        raise UserError("--set model.latent_dim is 1 in the lag study: leave the setting out")
    args.set = [*args.set, SCALAR]
    return run.execute(args)
