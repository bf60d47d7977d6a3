"""Command lines that nobody should type: each ends with a status, in time, in one line, and writes where it may.

Valid options and values are recombined, replaced by values of another kind, and their characters changed. Everything is
real as far as the plan (``--dry-run``), or as far as the first update, decoded example or figure of the other commands.
NUL is left out, for no command line can hold it.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import registry
from bench.config import EvaluationConfig, ImageModelConfig, TextModelConfig, TrainConfig

from ..test_run import TOY
from .inputs import MEMORY, SECONDS, SLOW, Tally, _written_outside

FAST, OTHERS = 100, 300
WORK_BEGINS = "here the work would begin"

# ---- words

EXPRESSIONS = (
    "vae",
    "core",
    "paper",
    "all",
    "beta_vae(beta=0.2|0.4)",
    "sa_vae(steps=2,lr=0.1)+anneal(start=0.2)",
    "vae + cyclical(cycles=2, ratio=0.5)",
    "aggressive+anneal",
    "kl_annealing(ramp=none)",
    "vae,beta_vae",
)
NUMBERS = (
    *"0 1 2 3 -1 0.5 1e-320 1e5 1e308 1e999 -1e999 nan inf -inf 0x10 1_0 10**9 1000000000 1000000000000".split(),
    *(str(2**31), str(2**63 - 1), str(2**63), str(2**64), "9" * 400, "9" * 5000),
)
ODD = (
    *"true none None [] {} {[]} {[]:1} () (1,) (3,3) ((3,),3) (3,'x') (1.5,2) ('common','use') ('x',) 'x' b'x'".split(),
    *"1+2j ... # \\ é 名前 🙂 [/red] [bold] {0} %s %(prog)s ../x ../../x ~ $HOME - -- = == | || a=b a|b , ((((".split(),
    *("", " ", "\u202egnp", "\x1b[31m", "\n", "a\nb", "\t", "\r", "\x7f", "\udcff", "lambda: 0", "__import__('os')"),
    *("(" * 3000, "(" * 150 + ")" * 150, "(" * 900 + "1" + ")" * 900, "-" * 900 + "1", "[" * 90_000, "+" * 50_000),
    *("x" * 300, "x" * 20_000, " " * 50_000 + "x", "vae," * 20_000, "|".join(map(str, range(9000)))),
    *"adam sgd tf32 mi".split(),
)
SETTINGS = [
    *(f"model.{f.name}" for config in (ImageModelConfig, TextModelConfig) for f in fields(config)),
    *(f"train.{f.name}" for f in fields(TrainConfig)),
    *(f"evaluation.{f.name}" for f in fields(EvaluationConfig)),
    *("vae.x", "vea.x", "sa_vae.steps", "sa_vae.lr", "sa_vae.gradient", "beta_vae.beta", "aggressive.window", "x.y"),
]
PATHS = *"out deep/er/out file file/under missing unreadable cells . /dev/null /proc/nope".split(), ""
IMAGES = ("images.npz", "\udcff.npz", "[bold].npz", "名前\n.npz")
CHARACTERS = [*"()=|,+-._ 019eEaz'\"[]{}*#\\/:;@é", "\n", "\x1b", "\udcff", "🙂"]


def value(rng: random.Random) -> str:
    return rng.choice(rng.choice((NUMBERS, NUMBERS, ODD)))


def path(rng: random.Random) -> str:
    return rng.choice((*PATHS, *PATHS, value(rng).lstrip("/"), "x" * 5000))


def expression(rng: random.Random) -> str:
    kind = rng.randrange(6)
    if kind < 3:
        return rng.choice(EXPRESSIONS)
    if kind == 3:
        return f"beta_vae(beta={value(rng)})"
    if kind == 4:
        names = ("sa_vae", "vae", "aggressive", "vea", ""), ("steps", "lr", "clip", "window", "x"), ("anneal", "x")
        name, setting, schedule = (rng.choice(some) for some in names)
        return f"{name}({setting}={value(rng)})+{schedule}(start={value(rng)})"
    sweep = "|".join(str(rng.randrange(9)) for _ in range(rng.choice((2, 40, 400))))
    return f"sa_vae(steps={sweep},lr={sweep})"


def assignment(rng: random.Random) -> str:
    return f"{rng.choice(SETTINGS)}={value(rng)}"


def model(rng: random.Random) -> str:
    return rng.choice(("image:quick", "text:quick", "image:", "image:../quick", "vdieo:quick", f"image:{value(rng)}"))


def dataset(rng: random.Random) -> str:
    known = ("glyphs", "glyphs(x=1)", f"synthetic(vocab={value(rng)})", "cells", *IMAGES)
    return rng.choice((*known, path(rng)))


def choice(*words: str) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice((*words, *words, value(rng)))


Options = dict[str, Callable[[random.Random], str] | None]  # None: a flag

WORK: Options = {
    "--methods": expression,
    "--set": assignment,
    "--data-dir": path,
    "--device": choice("auto", "cpu", "cuda"),
}
WORKERS: Options = {
    "--executor": choice("ray", "local"),
    "--cpus-per-cell": choice("1"),
    "--gpus-per-cell": choice("0", "0.5"),
    "--stuck-after": choice("30", "0.5"),
}
COMMANDS: dict[str, tuple[list[str], Options]] = {  # what stands first, and the options
    "run": (
        ["--dry-run"],
        WORK
        | WORKERS
        | {
            "--dataset": dataset,
            "--preset": choice("quick", "small", "../quick"),
            "--seeds": choice("1", "2", "10"),
            "--seed": choice("1"),
            "--out": path,
            "--address": choice("auto", "127.0.0.1:1"),
            "--collect": None,
            "--compile": None,
            "--force": None,
            "--list": None,
            "--help": None,
        },
    ),
    "report": (["PATH"], {"--out": path, "--force": None}),
    "merge": (["PATH", "PATH", "--out", "PATH"], {"--out": path, "--x": None}),
    "evaluate": (
        ["PATH"],
        {name: WORK[name] for name in ("--set", "--data-dir")} | WORKERS | {"--metrics": choice("use", "use,common")},
    ),
    "verify": (["PATH"], {"--retrain": None, "--data-dir": path, "--x": path}),
    "lag": (
        [],
        WORK
        | {
            "--dataset": dataset,
            "--preset": choice("quick", "smal"),
            "--updates": choice("5"),
            "--points": choice("3"),
            "--seed": choice("1"),
            "--out": path,
            "--force": None,
        },
    ),
    "speed": (
        ["--models", "image:quick"],
        {
            "--methods": expression,
            "--models": model,
            "--precision": choice("float32", "tf32", "bfloat16,float32"),
            "--seconds": choice("2"),
            "--threads": choice("1"),
            "--device": choice("auto", "cpu", "cuda"),
            "--out": path,
        },
    ),
}


def command_line(command: str, seed: int, index: int) -> list[str]:
    """Arguments ``index`` of a seed."""
    rng = random.Random(f"{command} {seed} {index}")
    first, options = COMMANDS[command]
    words = [rng.choice((path(rng), "cells")) if word == "PATH" else word for word in first]
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 6))):
        name = rng.choice([*options])
        make = options[name]
        words += [name] if make is None else [name, make(rng)] if rng.random() < 0.8 else [f"{name}={make(rng)}"]
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        words = mutated(words, rng)
    # Always there, for without it a command line that happens to be right would train.
    return words if command != "run" else [word for word in words if word != "--dry-run"] + ["--dry-run"]


def mutated(words: list[str], rng: random.Random) -> list[str]:
    """One argument left out, doubled, moved, or changed in one place."""
    if not words:
        return [value(rng)]
    at = rng.randrange(len(words))
    word, rest = words[at], words[:at] + words[at + 1 :]
    kind = rng.randrange(6)
    if kind == 0:
        return rest
    if kind == 1:
        return [*words, word]
    if kind == 2:
        return [*rest, word]
    here = rng.randrange(len(word) + 1)
    changed = {
        3: word[:here] + rng.choice(CHARACTERS) + word[here:],
        4: word[:here] + word[here + 1 :],
        5: word[:here] + word[here : here + 3] * rng.choice((2, 10, 1000)) + word[here:],
    }
    return [*words[:at], changed[kind], *words[at + 1 :]]


# ---- what becomes of them


def survey(counts: Mapping[str, int], folder: Path, prepared: Any, seed: int = 0) -> dict[str, Tally]:
    """What each ``bench.<command>`` makes of so many command lines, in a process of their own; ``AssertionError`` where
    one does not end as it should."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        tallies = process.submit(_survey, counts, folder.resolve(), prepared, seed).result()
    for command, tally in tallies.items():
        print(f"bench.{command}: {tally}")
        assert tally.peak < MEMORY, str(tally)
    return tallies


def _survey(counts: Mapping[str, int], folder: Path, prepared: Any, seed: int) -> dict[str, Tally]:
    resource.setrlimit(resource.RLIMIT_AS, (16 * MEMORY, 16 * MEMORY))  # it only spares the machine
    sys.dont_write_bytecode = True
    place(folder, prepared)
    mains = {command: import_module(f"bench.{command}").main for command in counts}
    for main in mains.values():
        assert ended(main, ["--help"])[0] == 0
    writes = _written_outside(Path("/nowhere"))
    tallies, failures = {}, []
    for command, count in counts.items():
        tallies[command] = tally = Tally()
        for index in range(count):
            words = command_line(command, seed, index)
            writes.clear()
            for problem in _problems(mains[command], words, folder, writes, tally):
                failures.append(f"command line {index} of seed {seed}: bench.{command} {shown(words)}: {problem}")
        tally.peak = 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    assert not failures, f"{len(failures)} failures\n" + "\n".join(failures[:40])
    return tallies


def _problems(main: Callable, words: list[str], folder: Path, writes: list[str], tally: Tally) -> Iterator[str]:
    """What is not as it should be of one command line, whose end is added to ``tally``."""
    began = time.monotonic()
    try:
        with limited(4 * SECONDS):
            status, said, given = ended(main, words)
    except BaseException as error:
        yield f"{type(error).__name__}: {str(error)[:200]}"
        return
    seconds = time.monotonic() - began
    good = status < 2 or said == f"error: {WORK_BEGINS}\n"
    tally.read, tally.refused = tally.read + good, tally.refused + (not good)
    tally.slowest, tally.seconds = max(tally.slowest, seconds), tally.seconds + seconds
    if status not in (0, 1, 2):
        yield f"status {status}"
    if status == 2 and not (said.startswith("usage:") or (said.startswith("error: ") and said.count("\n") == 1)):
        yield f"said {said!r}"
    if seconds > SECONDS:
        yield f"{seconds:.1f} s"
    if stray := [write for write in writes if not allowed(write, given, folder)]:
        yield f"wrote {stray[:3]}"


def place(folder: Path, prepared: Any) -> None:
    """Paths of every kind in ``folder``; ``quick`` is tiny, data sets are the toy, and nothing is trained or drawn."""
    for name in ("presets", "cache", "tmp", "work/here/unreadable"):
        (folder / name).mkdir(parents=True)
    (folder / "presets" / "quick.toml").write_text(TOY)
    here = folder / "work" / "here"
    (here / "file").write_text("x")
    for name in IMAGES:
        (here / name).write_bytes(prepared.path.read_bytes())
    (here / "unreadable").chmod(0)
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "cells", here / "cells")
    for config in (here / "cells").rglob("config.json"):
        (config.parent / "best.pt").touch()
    os.chdir(here)
    os.environ |= {"BENCH_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "COLUMNS": "80"}
    os.environ.pop("BENCH_DATA_DIR", None)
    import torch

    import bench.cell
    import bench.config
    import bench.lag
    import bench.report
    import bench.running
    import bench.speed
    import bench.stored

    bench.config.PRESETS = folder / "presets"
    toy = SimpleNamespace(SUMMARY="toy", NEEDS_DOWNLOAD=False, prepare=lambda *_, **__: prepared, SETTINGS={"vocab": 9})
    registry.dataset = lambda name: toy
    bench.report.build = lambda *_, **__: []
    torch.set_num_threads(1)
    torch.set_num_threads = lambda threads: None  # for seconds do not count here, and others use this machine too

    def stop(*_: Any, **__: Any) -> None:
        raise bench.lag.UserError(WORK_BEGINS)

    bench.cell.run_cell = bench.lag.stored_or_made = bench.running.carry_out = bench.speed.alone = stop
    bench.stored.prepare_again = lambda *_: prepared


def ended(main: Callable, words: list[str]) -> tuple[int, str, argparse.Namespace | None]:
    """The status of a command, what it wrote to stderr, and its arguments as parsed."""
    given: list[argparse.Namespace] = []
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, *arguments):
        given.append(parse(self, *arguments))
        return given[-1]

    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[assignment]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main(words)
    except SystemExit as exit:
        status = exit.code
    finally:
        argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]
    err.seek(0)
    return status, err.read(), given[0] if given else None


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Within: ``TimeoutError`` after so many seconds."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def allowed(write: str, given: argparse.Namespace | None, folder: Path) -> bool:
    """Whether a write is to the cache, for a moment, or to ``--out``; making the folders above that is, too."""
    target = os.path.realpath(write.partition(" ")[2])
    if target.startswith((f"{folder}/cache", f"{folder}/tmp")):
        return True
    out = os.path.realpath(getattr(given, "out", "/nowhere"))
    return f"{target}/".startswith(f"{out}/") or (write.startswith("os.mkdir") and out.startswith(f"{target}/"))


def shown(words: list[str]) -> str:
    return " ".join(ascii(word if len(word) < 80 else f"{word[:40]}…{len(word)} characters") for word in words)


def test_any_command_line_ends_with_a_status_and_one_line(prepared, tmp_path):
    tallies = survey({command: FAST if command == "run" else FAST // 2 for command in COMMANDS}, tmp_path, prepared)
    assert all(tally.read and tally.refused for tally in tallies.values())


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_many_command_lines_end_with_a_status_and_one_line(command, prepared, tmp_path):
    count = SLOW if command == "run" else OTHERS
    tally = survey({command: count}, tmp_path, prepared, seed=1)[command]
    assert tally.refused and tally.read > count / (4 if command == "run" else 30)
