"""Causes in words (causes.toml), and the published rows of the methods that address them (evidence.csv)."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bench.core.numbers import counted
from bench.diagnosis.verdict import Cause


@dataclass(frozen=True)
class Advice:
    """A cause in words: meaning, what to do, methods that address it, and a published row of each.

    Methods whose published rows have all collapsed are left out. The first have collapsed least, then a lower NLL.
    """

    title: str
    evidence: str
    meaning: str
    do: str
    methods: tuple[str, ...]
    published: tuple[str, ...]


def advice(cause: Cause) -> Advice:
    """Return a cause in words."""
    text = _causes()[cause.name]
    rows = [
        min((row for row in _evidence() if row["base"] == name), key=_rank, default=None) for name in text["methods"]
    ]
    found = sorted((row for row in rows if row is not None and float(row["collapsed"]) < 1), key=_rank)
    methods = tuple(row["base"] for row in found)
    return Advice(text["title"], cause.evidence, text["meaning"], text["do"], methods, tuple(map(_row, found)))


@cache
def _causes() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("causes.toml").read_text("utf-8"))


@cache
def _evidence() -> list[dict[str, str]]:
    """Return the published rows of text on which the basic VAE collapses."""
    text = files(__package__).joinpath("evidence.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def _rank(row: dict[str, str]) -> tuple[float, float]:
    return float(row["collapsed"]), float(row["nll_minus_baseline"] or "inf")


def _row(row: dict[str, str]) -> str:
    collapsed = f"{round(float(row['collapsed']) * int(row['n']))} of {counted(int(row['n']), 'seed')} collapsed"
    nll = f", NLL − vae {round(float(row['nll_minus_baseline']), 2) + 0.0:+.2f}" if row["nll_minus_baseline"] else ""
    return f"{row['method']} on {row['table']}: MI {round(float(row['mi']), 2) + 0.0:.2f}, {collapsed}{nll}"
