"""Canonical JSON, content hashes and derived seeds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=asdict)


def canonical(record: Any) -> str:
    """Return ``record`` as JSON with sorted keys and no spaces; dataclasses become objects of their fields."""
    return _ENCODER.encode(record)


def short_hash(record: Any, length: int = 12) -> str:
    """Return the first ``length`` hexadecimal digits of the SHA-256 of the canonical JSON of ``record``."""
    return hashlib.sha256(canonical(record).encode()).hexdigest()[:length]


def derive_seed(*parts: Any) -> int:
    """Return a 63-bit seed, a hash of ``parts``: base seed, data set, repetition, purpose, counter …"""
    return int.from_bytes(hashlib.sha256(canonical(parts).encode()).digest()[:8], "big") >> 1
