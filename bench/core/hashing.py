"""Canonical JSON, content hashes and derived seeds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any


def canonical(record: Any) -> str:
    """One text for one meaning: sorted keys, no spaces, dataclasses as their fields."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=asdict)


def short_hash(record: Any, length: int = 12) -> str:
    return hashlib.sha256(canonical(record).encode()).hexdigest()[:length]


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed that is a function of its parts: base seed, data set, repetition, purpose, counter …"""
    return int.from_bytes(hashlib.sha256(canonical(parts).encode()).digest()[:8], "big") >> 1
