"""Stored images of the first seed of every method as PNG data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pandas import DataFrame

KINDS = ("originals", "reconstructions", "samples")
MAX_IMAGES = 12


def image_strips(frame: DataFrame) -> dict[str, dict[str, str]]:
    """Return method -> kind -> a strip of up to ``MAX_IMAGES`` images as a data URI; unreadable files are skipped."""
    strips = {}
    for method, cells in frame[frame["status"] == "done"].groupby("method", sort=False):
        try:
            with np.load(cells["cell"].iloc[0].folder / "arrays.npz", allow_pickle=False) as stored:
                images = {kind: stored[kind] for kind in KINDS if kind in stored and stored[kind].ndim in (3, 4)}
        except Exception:  # zipfile, zlib and NumPy raise different types; the figures name the damaged file
            continue
        if images:
            strips[str(method)] = {kind: _strip(array) for kind, array in images.items()}
    return strips


def _strip(images: np.ndarray) -> str:
    """Return uint8 images side by side: ``(P, H, W)``, ink high, as black on white, or ``(P, 3, H, W)`` in colour."""
    images = images[:MAX_IMAGES].astype(np.float64)
    if images.ndim == 4:
        pixels = images.transpose(0, 2, 3, 1)  # (P, H, W, 3)
    else:
        pixels = 255 - 255 * images / max(1.0, images.max())  # (P, H, W)
    frame = [(0, 0), (1, 1), (1, 1), (0, 0)][: pixels.ndim]
    strip = np.hstack([*np.pad(pixels, frame, constant_values=225)]).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
