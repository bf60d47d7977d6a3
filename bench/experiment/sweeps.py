"""``OUT/sweeps.json``: the sweeps that were run, so that a report can select the best member of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from bench.core.errors import UserError
from bench.core.files import file_lock, read_text, write_json

FILE = "sweeps.json"
#: Preset → sweep expression → the expressions of its members. Members depend on the preset's defaults.
Sweeps = dict[str, dict[str, list[str]]]


def read_sweeps(out: Path) -> Sweeps:
    """Return every sweep that was run with ``out``; ``UserError`` if the file is damaged."""
    try:
        text = read_text(out / FILE, missing_ok=True)
        return TypeAdapter(Sweeps).validate_json(text, strict=True) if text else {}
    except ValueError as error:
        raise UserError(f"{out / FILE} is damaged: remove it, and the next run writes its own sweeps") from error


def write_sweeps(out: Path, preset: str, sweeps: Mapping[str, list[str]], keep: bool = False) -> None:
    """Add sweeps to those of earlier runs; with ``keep``, only those that are not known."""
    if not sweeps:
        return
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / f".{FILE}.lock", None):
        known = read_sweeps(out)
        before = known.get(preset, {})
        write_json(out / FILE, known | {preset: dict(sweeps) | before if keep else before | dict(sweeps)})
