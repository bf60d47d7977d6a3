"""python -m bench.lag: inference lag as He et al. (2019) drew it, with a scalar latent.

Each method is trained in this process, one after the other. At stages of training, the means of q(z|x) for fixed test
points are set against those of the model's true posterior p(z|x), by quadrature. What is stored is not trained again.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.validate import check, check_counts, check_fit, data_folder, resolve_device
from bench.core.errors import UserError, exit_status
from bench.core.hashing import short_hash
from bench.experiment.presets import load_preset

if TYPE_CHECKING:
    import numpy as np

    from bench.data.dataset import Prepared
    from bench.experiment.plan import PlannedCell
    from bench.experiment.presets import Preset
    from bench.reporting.lag import Trace

FRAMES = 24  # stages of training at which inference is looked at, the first before it
VERSION = 1  # of what is stored
ARRAYS_BYTES = 1 << 30  # of it at most: as many points as --points takes


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.lag",
        description="Train methods with a scalar latent and draw how far q(z|x) lags behind the true posterior p(z|x) "
        "over training (He et al., ICLR 2019, Figures 2 and 3). What is stored is not trained again.",
    )
    p.add_argument("--methods", default="lag", help="method expressions and suites (default: the suite lag)")
    p.add_argument("--dataset", default="synthetic", help="data set by name (default: synthetic, without download)")
    p.add_argument("--preset", default="quick", help="quick, small or paper (default: quick)")
    p.add_argument(
        "--updates", type=int, metavar="N", help="at least so many updates of the decoder (default: the preset's)"
    )
    p.add_argument("--points", type=int, default=500, metavar="N", help="test examples in the picture (default: 500)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="base seed (default: 0)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as for bench.run")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder for numbers and figures (default: out)")
    p.add_argument("--data-dir", type=Path, help="folder with data sets (default: BENCH_DATA_DIR)")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: cuda if there is one")
    p.add_argument("--force", action="store_true", help="train again what is stored")
    # What bench.run's checks look at.
    p.set_defaults(seeds=1, cpus_per_cell=1, gpus_per_cell=None, address=None)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_status(lambda: run(args), "methods that were finished are stored")


def run(args: argparse.Namespace) -> int:
    check(args)
    check_counts(args, points=(1, 10**6), updates=(1, 10**9))
    from bench.core.syntax import split_expressions
    from bench.data.cache import cache_dir
    from bench.data.registry import prepare
    from bench.experiment.plan import plan
    from bench.training.expressions import parse_methods, parse_settings

    settings, overrides = parse_settings(args.set)
    rows, _ = parse_methods(split_expressions(args.methods), args.preset, settings)
    data = prepare(args.dataset, data_folder(args), cache_dir())
    preset = scalar_latent_preset(args, data, overrides)
    cells = plan(rows, data.info, preset, 1, args.seed, resolve_device(args), args.out)
    cells.sort(key=lambda cell: not cell.config.method.baseline)
    stem = f"{data.info.name}-{preset.name}"
    traces = {}
    for cell in cells:
        name = cell.variant.expression
        reason = cell.state.reason or (None if cell.variant.method.latent else "there is no latent")
        if reason:
            print(f"{name}: left out, {reason}")
        else:
            traces[name] = load_or_train(args, cell, data, args.out / "lag" / stem)
    if not traces:
        raise UserError("none of these methods has a latent on this data set: name others with --methods")

    from bench.reporting.lag import draw

    table(traces)
    folder = args.out / "figures" / f"lag-{stem}"
    draw(folder, traces)
    print(f"numbers: {args.out / 'lag' / stem}/, figures: {folder}/")
    return 0


def scalar_latent_preset(args: argparse.Namespace, data: Prepared, overrides: dict[str, dict[str, Any]]) -> Preset:
    """The preset with a latent of one dimension and the updates asked for."""
    if overrides.get("model", {}).get("latent_dim", 1) != 1:
        raise UserError("--set model.latent_dim: the picture of lag is of a scalar latent, so it is 1 here")
    overrides = overrides | {"model": overrides.get("model", {}) | {"latent_dim": 1}}
    preset = load_preset(args.preset, data.info.modality, overrides, data.info.protocol)
    check_fit(preset, data.info)
    from bench.data.tensors import batches_per_pass

    if args.updates is None:
        return preset
    batches = batches_per_pass(data, preset.model, preset.train)
    epochs = math.ceil(args.updates / preset.train.updates_per_epoch(batches))
    lengths = {"epochs": epochs, "epoch_updates": math.ceil(args.updates / epochs)}
    overrides |= {"train": overrides.get("train", {}) | lengths}
    return load_preset(args.preset, data.info.modality, overrides, data.info.protocol)


def load_or_train(args: argparse.Namespace, cell: PlannedCell, data: Prepared, folder: Path) -> Trace:
    """The trace of a cell as it is stored for the same settings, or else trained, looked at and stored."""
    from dataclasses import asdict

    import numpy as np

    from bench.core import provenance
    from bench.core.files import replace, write_json

    slug = cell.folder.path.parent.name
    record, arrays = folder / f"{slug}.json", folder / f"{slug}.npz"
    key = short_hash([VERSION, cell.config.cell_id, args.points, FRAMES])
    if not args.force and (found := stored(record, arrays, key)):
        return found
    print(f"{cell.variant.expression}: training", flush=True)
    trace, seconds = train(cell, data, args.points)
    replace(arrays, lambda file: np.savez_compressed(file, **asdict(trace)))  # type: ignore[arg-type]
    about = {"commit": provenance.commit(), "versions": provenance.versions(), "command": provenance.command()}
    numbers = {"update": trace.updates, "lag": trace.lag, "lag_kl": trace.kl.mean(axis=1)}
    # Last: it is what says that the arrays are those of this configuration.
    write_json(
        record,
        {
            "key": key,
            "config": cell.config.model_dump(mode="json"),
            "points": trace.means.shape[1],
            "stages": {name: values.tolist() for name, values in numbers.items()},
            "seconds": seconds,
            "provenance": about | {"finished": provenance.now()},
        },
    )
    return trace


def stored(record: Path, arrays: Path, key: str) -> Trace | None:
    """The trace that was stored under ``key``; None where it is not there, or damaged."""
    from bench.core.files import read_json
    from bench.core.safe_io import open_regular_file
    from bench.core.safe_io import read_arrays as read_arrays
    from bench.reporting.lag import Trace

    try:
        if read_json(record)["key"] != key:
            return None
        with open_regular_file(arrays, ARRAYS_BYTES) as file:
            content = read_arrays(file)
    except Exception:  # zipfile, zlib and NumPy each fail in ways of their own
        return None
    with suppress(ValueError, TypeError):
        return Trace.of(content)
    return None


def train(cell: PlannedCell, data: Prepared, points: int) -> tuple[Trace, float]:
    """Train a cell and look at it on the way: the trace, and the seconds that it all took."""
    import time

    import numpy as np

    from bench.evaluation.metrics import validate
    from bench.experiment.factory import build_from_config, load_data
    from bench.reporting.lag import Trace
    from bench.training.factory import configure_torch
    from bench.training.trainer import Trainer

    started = time.perf_counter()
    config = cell.config
    configure_torch(threads=1, device=config.device, gpu_share=0)
    tensors = load_data(config, data.path)
    method, model, seed = build_from_config(config)
    settings = config.train
    looks: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
    look = make_lag_observer(method, model, tensors, settings, seed, points)

    def watch(ctx) -> None:
        if ctx.step in stages(ctx.total):
            looks.append((ctx.step, *look()))

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(method, model, tensors, settings, seed, Path(folder), validate, lambda history: None, watch)
        trainer.run()
    if looks[-1][0] != trainer.ctx.step:  # stopped before the budget
        looks.append((trainer.ctx.step, *look()))  # type: ignore[arg-type]
    return Trace(*map(np.stack, zip(*looks, strict=True))), time.perf_counter() - started


def stages(total: int) -> set[int]:
    """The updates after which to look: none, then at equal ratios up to ``total``."""
    return {0} | {round(total ** (i / (FRAMES - 2))) for i in range(FRAMES - 1)}


def make_lag_observer(method, model, data, settings, seed: int, points: int) -> Callable[[], tuple[np.ndarray, ...]]:
    """A function that gives means of q, means of p(z|x) and KL(q ‖ p(z|x)) on the first test examples: ``[N]`` each."""
    import torch

    from bench.core.hashing import derive_seed
    from bench.evaluation.chunking import auto_chunk_size
    from bench.evaluation.estimators.inference_gap import elbo, true_posterior
    from bench.evaluation.metrics import EvaluationContext

    ctx = EvaluationContext(model, data.info, settings, derive_seed(seed, "lag"))
    _, (x,) = data.blocks("test", points, points)
    chunk = auto_chunk_size(model.eval(), [x])

    @torch.no_grad()
    def look() -> tuple[np.ndarray, ...]:
        model.eval()
        q = method.posterior(ctx, x, train=False)
        truth = true_posterior(model, x, q.mean, chunk)
        kl = truth.log_px - elbo(model, x, q, ctx.generator("lag"), chunk)
        model.train()
        return tuple(values.float().cpu().numpy() for values in (q.mean.squeeze(1), truth.mean.squeeze(1), kl))

    return look


def table(traces: dict[str, Trace]) -> None:
    """Print lag and KL(q ‖ p(z|x)) at the stages of the picture."""
    from bench.reporting.lag import shown_stages

    width = max(map(len, traces))
    print(f"{'':{width}}  {'updates':>8}  {'lag':>6}  {'KL(q‖p(z|x))':>12}  {'|mean of p|':>11}  {'|mean of q|':>11}")
    for name, trace in traces.items():
        for stage in shown_stages(len(trace.updates)):
            sizes = [abs(means[stage]).mean() for means in (trace.true_means, trace.means)]
            numbers = f"{trace.lag[stage]:6.3f}  {trace.kl[stage].mean():12.3f}  {sizes[0]:11.3f}  {sizes[1]:11.3f}"
            print(f"{name:{width}}  {trace.updates[stage]:8,d}  {numbers}")


if __name__ == "__main__":
    sys.exit(main())
