"""Grids of images: test examples, reconstructions and samples, one line per row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.reporting.figures.style import WIDTH, broken, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_IMAGES = 12  # test images in a line
Arrays = Mapping[str, Mapping[str, np.ndarray]]  # row -> arrays that its cell stored


def image_grid(arrays: Arrays, kind: str, first: str | None = None) -> list[Figure]:
    """Draw test images, one line per row, below a line of ``first``.

    Images are uint8: ``(P, H, W)``, ink high, or ``(P, 3, H, W)`` in colour.
    """
    rows = {name: stored[kind] for name, stored in arrays.items() if kind in stored and (first or kind) in stored}
    if first and rows:
        rows = {first: next(arrays[name][first] for name in rows), **rows}
    return [_grid(rows)] if rows else []


def _grid(rows: Mapping[str, np.ndarray]) -> Figure:
    count = min(MAX_IMAGES, *map(len, rows.values()))
    ink = max(1, *(images.max() for images in rows.values()))
    side = min(0.42, (WIDTH - 1.8) / count)  # inches per image
    figure, axes = subplots(side * len(rows), len(rows), width=side * count + 1.8)
    figure.set_layout_engine("compressed", h_pad=0.01, hspace=0)
    for (ax,), (name, images) in zip(axes, rows.items(), strict=True):
        pixels = (images.transpose(0, 2, 3, 1) if images.ndim == 4 else images)[:count] / ink
        frame = [(0, 0), (1, 1), (1, 1), (0, 0)][: pixels.ndim]
        strip = np.hstack([*np.pad(pixels, frame, constant_values=0.15)])
        ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_yticks([strip.shape[0] / 2], [broken(name, 28)])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)
    return figure
