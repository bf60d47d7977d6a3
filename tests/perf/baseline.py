"""``baseline.json``: what methods cost, committed, and moved by ``BENCH_WRITE_BASELINE=1`` on purpose alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.core.files import write_json
from bench.training import registry

BASELINE = Path(__file__).with_name("baseline.json")
WRITING = bool(os.environ.get("BENCH_WRITE_BASELINE"))
#: Section -> the command that writes it.
COMMANDS = {
    "counts": "BENCH_WRITE_BASELINE=1 python -m pytest tests/perf/test_counts.py",
    "ratios": "BENCH_WRITE_BASELINE=1 python -m pytest --benchmark-enable tests/perf/test_ratios.py",
}


def read() -> dict[str, dict[str, dict[str, Any]]]:
    """Section -> modality -> method (of ratios, or what else is timed) -> its entry."""
    return json.loads(BASELINE.read_text("utf-8"))


def entry(section: str, modality: str, name: str) -> Any:
    """What is committed; a failure that says what to type where there is nothing."""
    known = read().get(section, {}).get(modality, {})
    if name not in known:
        pytest.fail(
            f"{name} ({modality}) has no {section} in {BASELINE.name} yet. Write them with\n  {COMMANDS[section]}\n"
            f"and commit what `git diff {BASELINE.name}` then shows, if it is what you expect",
            pytrace=False,
        )
    return known[name]


def move(section: str, modality: str, name: str, found: Any) -> None:
    """Write an entry, and forget methods that are no more."""
    written = read()
    entries = written.setdefault(section, {}).setdefault(modality, {}) | {name: found}
    gone = {each for each in entries if each.isidentifier()} - {*registry.method_names()}
    written[section][modality] = {each: entries[each] for each in sorted(entries) if each not in gone}
    write_json(BASELINE, {each: dict(sorted(written[each].items())) for each in sorted(COMMANDS) if each in written})
