"""Causes in words (causes.toml), and the published rows of the methods that address them (evidence.csv)."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bench.diagnosis.verdict import Cause, counted


@dataclass(frozen=True)
class Advice:
    """A cause in words: meaning, what to do, methods that address it, and their published rows."""

    title: str
    evidence: str
    meaning: str
    do: str
    methods: tuple[str, ...]
    published: tuple[str, ...]


def advice(cause: Cause) -> Advice:
    """Return a cause in words."""
    text = _causes()[cause.name]
    methods = tuple(text["methods"])
    return Advice(text["title"], cause.evidence, text["meaning"], text["do"], methods, tuple(published(methods)))


@cache
def _causes() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("causes.toml").read_text("utf-8"))


def published(methods: Sequence[str]) -> list[str]:
    """Return the published rows of methods on data on which the basic VAE collapses, in the order of ``methods``."""
    text = files(__package__).joinpath("evidence.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return [_row(row) for name in methods for row in rows if row["base"] == name]


def _row(row: dict[str, str]) -> str:
    collapsed = f"{round(float(row['collapsed']) * int(row['n']))} of {counted(int(row['n']), 'seed')} collapsed"
    nll = f", NLL − vae {float(row['nll_minus_baseline']):+.2f}" if row["nll_minus_baseline"] else ""
    return f"{row['method']} on {row['table']}: MI {float(row['mi']):.2f}, {collapsed}{nll}"
