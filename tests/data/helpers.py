"""Shared by the tests of data sets."""

from pathlib import Path

import numpy as np


def write_texts(folder: Path, texts: dict[str, str | bytes]) -> Path:
    """Write ``texts`` as files; names without a dot get the suffix ``.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        content = text if isinstance(text, bytes) else text.encode()
        (folder / (name if "." in name else f"{name}.txt")).write_bytes(content)
    return folder


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def damaged(content: bytes) -> dict[str, bytes]:
    """Return damaged versions of a file: empty, random bytes, truncated, and with inverted bytes."""
    inverted = bytes(byte ^ 0xFF if 128 <= at < 160 else byte for at, byte in enumerate(content))
    noise = np.random.default_rng(0).bytes(5000)
    return {"empty": b"", "noise": noise, "truncated": content[: len(content) // 2], "inverted": inverted}
