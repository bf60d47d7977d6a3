"""``python -m tests.perf.against_naive image yahoo synthetic sa_vae --rounds N``: ours against the naive formulation.

Both do the same work on the same batch in turns, in processes of their own: what ours asks of the C library's
allocator holds for a whole process, and the naive formulation is to run as torch and glibc come. One thread, CPU time,
medians over rounds of the ratios within a round. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from bench.methods.sa_vae import SemiAmortisedVAE
from bench.methods.vae import BasicVAE

from bench.cli.speed import parse_size
from bench.data import tensors
from bench.evaluation.chunking import auto_chunk_size
from bench.evaluation.estimators.likelihood import importance_weighted_nll
from bench.evaluation.metrics import log_weights
from bench.models.build import build_model
from bench.models.precision import autocast
from bench.training.context import TrainingContext
from bench.training.factory import configure_torch
from tests.perf.naive import NaiveTraining, naive, naive_nll
from tests.perf.naive_sa import NaiveRefinement
from tests.perf.pairs import Work, cpu_seconds

STEPS = 20  # of SA-VAE
DIFFERENCES = 1e-3  # the naive step of finite differences
#: Name -> model size, samples of each example in evaluation, how many of them the naive one takes at once.
MODELS = {
    "image": ("image:paper", 4, 4),
    "yahoo": ("text:paper", 4, 4),
    "synthetic": ("synthetic:paper", 100, 10),
}
#: Model -> work -> how many times faster than the naive one, in float32 and, where it is asked for, in bfloat16.
BARS: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "image": {"plain update": (1.6, 2.8), "inner update": (1.9, 3.5), "evaluation": (1.5, 2.2)},
    "yahoo": {"plain update": (1.15, 1.7), "inner update": (1.3, 2.0), "evaluation": (1.2, 2.2)},
    "synthetic": {"plain update": (1.5, None), "inner update": (1.5, None), "evaluation": (None, None)},
}
#: SA-VAE's reverse pass -> at most so many of our own plain updates.
UPDATES = {"exact": 55.0, "differences": 34.0}
FASTER, GIGABYTES = 1.5, 4.0  # SA-VAE: than the naive formulation of the same scheme; at the peak


@dataclass(frozen=True)
class Side:
    """A process: which formulation of which model, in which arithmetic; ``refinement`` is SA-VAE's reverse pass."""

    model: str
    ours: bool
    precision: str = "float32"
    refinement: str | None = None


@dataclass(frozen=True)
class Finding:
    what: str
    naive: float | None  # seconds
    ours: float | None
    value: float
    unit: str
    bar: float | None  # None: only told
    at_most: bool = False

    @property
    def holds(self) -> bool:
        if self.bar is None:
            return True
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def row(self) -> str:
        times = ["" if seconds is None else f"{seconds:.4g}" for seconds in (self.naive, self.ours)]
        bar = "" if self.bar is None else f"{'≤' if self.at_most else '≥'} {self.bar:g}{self.unit}"
        cells = [self.what, *times, f"{self.value:.2f}{self.unit}", bar, "yes" if self.holds else "no"]
        return f"| {' | '.join(cells)} |"


# -- in a process of its own ---------------------------------------------------------------------------------------


def serve(side: Side, pipe: Connection) -> None:
    """Do the work that is named, and tell its CPU seconds, until nothing is asked any more; then the peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        works = (ours if side.ours else plain)(side, Path(folder))
        while name := pipe.recv():
            pipe.send(cpu_seconds(works[name]))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def start(side: Side, folder: Path):
    """The model, its data and a batch: the same on both sides."""
    torch.set_num_threads(1)
    size = parse_size(MODELS[side.model][0])
    data = tensors.load(size.prepared(folder), size.preset.model)
    torch.manual_seed(0)
    model = build_model(size.preset.model, data.info)
    train = replace(size.preset.train, precision=side.precision)
    _, (x,) = data.blocks("val", train.batch_size, train.batch_size)
    return model, data, train, x


def plain(side: Side, folder: Path) -> Mapping[str, Work]:
    model, _, train, x = start(side, folder)
    model = naive(model)
    _, samples, at_once = MODELS[side.model]
    training = NaiveTraining(model, train.optimiser, train.lr)
    works = {
        "plain update": lambda: training.update(x),
        "inner update": lambda: training.update(x, ("encoder",)),
        "evaluation": lambda: naive_nll(model, x, samples, at_once),
    }
    if side.refinement:
        step = None if side.refinement == "exact" else DIFFERENCES
        refined = NaiveRefinement(model, train.optimiser, train.lr, STEPS, differences=step)
        works["sa_vae"] = lambda: refined.update(x)
    return in_mode(model, works)


def ours(side: Side, folder: Path) -> Mapping[str, Work]:
    configure_torch(threads=1, device="cpu", gpu_share=0)
    model, data, train, x = start(side, folder)
    _, samples, _ = MODELS[side.model]
    method = BasicVAE()
    ctx = TrainingContext(method, model, data, train, 0)
    ctx.new_optimisers(train.lr)

    chunk = auto_chunk_size(model.eval(), [x])

    def update() -> None:
        method.step(ctx, x)
        ctx.step += 1

    @torch.no_grad()
    def evaluation() -> None:
        with autocast(model, side.precision, frozen=True):
            q = model.encode(x)
            importance_weighted_nll(log_weights(model, x, q, q.rsample(samples), chunk))

    works = {
        "plain update": update,
        "inner update": lambda: ctx.update(lambda: method.objective(ctx, x), groups=["encoder"]),
        "evaluation": evaluation,
    }
    if side.refinement:
        refining = SemiAmortisedVAE(SemiAmortisedVAE.Config(steps=STEPS, **reverse_pass(side.refinement)))
        works["sa_vae"] = lambda: refining.step(ctx, x)
    return in_mode(model, works)


def in_mode(model: torch.nn.Module, works: Mapping[str, Work]) -> Mapping[str, Work]:
    """The same with the model in the mode that each work wants."""

    def wrapped(name: str, work: Work) -> Work:
        def run() -> None:
            model.train(name != "evaluation")
            work()

        return run

    return {name: wrapped(name, work) for name, work in works.items()}


# -- in turns --------------------------------------------------------------------------------------------------------


@contextmanager
def process(side: Side) -> Iterator[Callable[[str | None], float]]:
    """A process for a side, and how to ask it: the name of some work -> its seconds; None -> its peak, and its end."""
    context = get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=serve, args=(side, there))
    child.start()
    there.close()

    def ask(name: str | None) -> float:
        here.send(name)
        return here.recv()

    try:
        yield ask
    finally:
        here.close()
        child.join(timeout=60)
        child.kill()


def in_turns(
    sides: Sequence[Side], works: Sequence[str], rounds: int, warm: Sequence[str]
) -> tuple[dict, dict[Side, float]]:
    """Work -> side -> seconds of every round; and every side's peak of memory in bytes. Every round the next side
    begins; ``warm`` is done once before."""
    found: dict[str, dict[Side, list[float]]] = {work: {side: [] for side in sides} for work in works}
    with ExitStack() as stack:
        asks = {side: stack.enter_context(process(side)) for side in sides}
        for ask in asks.values():
            for work in warm:
                ask(work)
        for number in range(rounds):
            first = number % len(sides)
            for work in works:
                for side in [*sides[first:], *sides[:first]]:
                    found[work][side].append(asks[side](work))
        peaks = {side: ask(None) for side, ask in asks.items()}
    return found, peaks


def reverse_pass(name: str) -> dict[str, str]:
    """The setting of SA-VAE for a reverse pass; none for the exact one, which is the default."""
    return {} if name == "exact" else {"gradient": name}


def known(variant: str) -> bool:
    return {*reverse_pass(variant)} <= {f.name for f in fields(SemiAmortisedVAE.Config)}


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def of_model(name: str, rounds: int) -> list[Finding]:
    bars = BARS[name]
    sides = [Side(name, ours=False), Side(name, ours=True)]
    if any(reduced for _, reduced in bars.values()):
        sides.append(Side(name, ours=True, precision="bfloat16"))
    times, _ = in_turns(sides, [*bars], rounds, warm=[*bars])
    base = sides[0]
    return [
        Finding(
            f"{name}, {work}, {side.precision}",
            statistics.median(times[work][base]),
            statistics.median(times[work][side]),
            ratio(times[work][base], times[work][side]),
            "×",
            full if side.precision == "float32" else reduced,
        )
        for side in sides[1:]
        for work, (full, reduced) in bars.items()
    ]


def of_sa_vae(rounds: int, model: str = "image") -> list[Finding]:
    found = []
    for variant, at_most in UPDATES.items():
        if not known(variant):
            continue
        sides = [Side(model, ours=False, refinement=variant), Side(model, ours=True, refinement=variant)]
        # A refined update takes minutes, and is not the first that a process makes.
        times, peaks = in_turns(sides, ["plain update", "sa_vae"], rounds, warm=["plain update"])
        theirs, own = (times["sa_vae"][side] for side in sides)
        updates = ratio(own, times["plain update"][sides[1]])
        what = f"{model}, SA-VAE K = {STEPS}, {variant}"
        middle = statistics.median(theirs), statistics.median(own)
        found += [
            Finding(what, *middle, ratio(theirs, own), "×", FASTER),
            Finding(f"{what}, in plain updates", None, None, updates, "", at_most, at_most=True),
            Finding(f"{what}, peak memory", None, None, peaks[sides[1]] / 2**30, " GB", GIGABYTES, at_most=True),
        ]
    return found


def measured(names: Sequence[str], rounds: int) -> list[Finding]:
    return [
        finding for name in names for finding in (of_sa_vae(rounds) if name == "sa_vae" else of_model(name, rounds))
    ]


def table(findings: Sequence[Finding]) -> str:
    head = ["| work | naive (s) | ours (s) | found | bar | holds |", "| - | -: | -: | -: | -: | - |"]
    return "\n".join([*head, *(finding.row() for finding in findings)])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.against_naive", description="Ours against the naive formulation."
    )
    parser.add_argument(
        "names", nargs="+", choices=[*MODELS, "sa_vae"], metavar="NAME", help="image yahoo synthetic sa_vae"
    )
    parser.add_argument("--rounds", type=int, default=7, help="after one that warms up (default: 7)")
    args = parser.parse_args()
    started = time.perf_counter()
    print(table(measured(args.names, args.rounds)))
    print(f"\n{args.rounds} rounds, {time.perf_counter() - started:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
