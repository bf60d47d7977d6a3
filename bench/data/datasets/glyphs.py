"""Glyphs: the characters of the DejaVu fonts as 28×28 grey images. Needs no download.

Similar to OMNIGLOT, on any machine: many scripts, few images per character, strokes on an empty background. The fonts
(DejaVu Sans, Sans Mono and Serif, each upright and slanted, book and bold) come with matplotlib, whose FreeType renders
them. Control, format, private-use and unassigned characters, spaces and combining marks are excluded, as are empty and
duplicate images.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache as memoised
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.data.cache import cached
from bench.data.dataset import BINARISATION_NOTE, SPLITS, DataInfo, Prepared
from bench.data.datasets._common import hash_shuffled, hash_uniform, overlap_weights

SUMMARY = "characters of the DejaVu fonts in matplotlib, 28×28, similar to OMNIGLOT"
NEEDS_DOWNLOAD = False

FONTS = tuple(
    f"DejaVu{family}.ttf"
    for family in (
        *("Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique"),
        *("SansMono", "SansMono-Bold", "SansMono-Oblique", "SansMono-BoldOblique"),
        *("Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic"),
    )
)
SIZE, BOX = 28, 22  # side of an image, and of the box that a character fills, about as in OMNIGLOT; pixels
EM = 96  # pixels per em in FreeType, before area averaging to SIZE
LARGEST_EM = 40  # maximum pixels per em after scaling: an x fills the box, a full stop stays a dot
# Subpixels per rendered pixel, so that half the pitch (a multiple of 1/BOX or EM / LARGEST_EM) is an integer.
FINE = 220
SPLIT_BOUNDS = (0.8, 0.9)  # of the hashes of the characters: train below the first, val below the second, then test
PREPARATION_VERSION = 2  # increase when the same fonts give different arrays


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Render the characters, a few seconds the first time; ``data_dir`` is not used."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import __freetype_version__ as freetype

    folder = Path(get_data_path()) / "fonts" / "ttf"
    digest = hashlib.sha1(f"{freetype} {unicodedata.unidata_version}".encode(), usedforsecurity=False)
    try:
        for font in FONTS:
            digest.update(hashlib.sha1((folder / font).read_bytes(), usedforsecurity=False).digest())
    except OSError as error:
        raise UserError(f"matplotlib's font {error.filename} cannot be read; reinstall matplotlib") from error

    def build() -> tuple[DataInfo, Mapping[str, np.ndarray]]:
        info = DataInfo(
            name="glyphs",
            title="glyphs (28×28)",
            modality="image",
            unit="nats per image",
            shape=(SIZE, SIZE),
            source=f"DejaVu fonts shipped with matplotlib, rendered by FreeType {freetype}",
            notes=(
                "Printed characters, not handwriting. Split by character; characters with the same image in a font are "
                "in the same split.",
                BINARISATION_NOTE,
            ),
        )
        return info, split(*render(folder))

    return cached(cache, f"glyphs-{digest.hexdigest()[:16]}-r{PREPARATION_VERSION}", build)


def render(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render all fonts; return the distinct images, their characters and groups of look-alike characters.

    Images: float32 ``[N, 28, 28]`` in [0, 1] (ink = 1); of equal images only the first is kept. Characters: their code
    points, int64 ``[N]``. Groups: int64 ``[N]``, the smallest code point among the characters
    that share an image with this one in some font, directly or through others (Latin A, Greek Alpha, Cyrillic А).
    """
    first: dict[bytes, int] = {}  # image → code point
    leader: dict[int, int] = {}  # union–find over code points

    def find(character: int) -> int:
        while leader.setdefault(character, character) != character:
            character = leader[character]
        return character

    for font in FONTS:
        for character, ink in _characters(folder / font):
            key = _fit(ink).tobytes()
            twin = find(first.setdefault(key, character))
            one, other = sorted((twin, find(character)))
            leader[other] = one
    images = np.frombuffer(b"".join(first), np.uint8).reshape(-1, SIZE, SIZE)
    characters = np.array(list(first.values()), np.int64)
    groups = np.array([find(character) for character in first.values()], np.int64)
    return images.astype(np.float32) / np.float32(255), characters, groups


def split(images: np.ndarray, characters: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of ``Prepared``: groups split at random about 80/10/10, each split shuffled."""
    from fontTools.unicodedata import block

    hashes = np.array([hash_uniform(f"glyph {group}") for group in groups.tolist()])
    splits = np.searchsorted(SPLIT_BOUNDS, hashes, side="right")
    order = hash_shuffled([f"glyph {index} {character}" for index, character in enumerate(characters.tolist())])
    blocks = {character: block(chr(character)) for character in sorted(characters.tolist())}
    names = list(dict.fromkeys(blocks.values()))  # Unicode blocks by code point
    labels = np.array([names.index(blocks[character]) for character in characters.tolist()], np.int64)
    arrays = {"label_names": np.array(names)}
    for index, name in enumerate(SPLITS):
        rows = order[splits[order] == index]
        arrays[name] = images[rows]
        arrays[f"{name}_labels"] = labels[rows]
        arrays[f"{name}_characters"] = characters[rows]
    return arrays


def _characters(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the visible characters of a font: code point, and coverage (uint8) cropped to the ink."""
    from matplotlib.ft2font import FT2Font, LoadFlags

    font = FT2Font(str(path))
    font.set_size(EM, 72)
    for character, glyph in sorted(font.get_charmap().items()):
        # No other (C) and separators (Z); marks (M) would be combined with a base, in some scripts a dotted circle.
        if glyph == 0 or unicodedata.category(chr(character))[0] in "CZM":
            continue
        font.set_text(chr(character), 0.0, flags=LoadFlags.NO_HINTING)
        font.draw_glyphs_to_bitmap(antialiased=True)
        image = np.asarray(font.get_image())
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        if rows.size:
            yield character, image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fit(ink: np.ndarray) -> np.ndarray:
    """Scale a character into the box, keeping its aspect ratio, and centre it: uint8 ``[28, 28]``.

    Integer arithmetic, with halves rounded up, gives the same image on every machine: means are often exact halves,
    whose rounding would depend on the last bit of a floating-point product.
    """
    pitch = max(max(ink.shape) * FINE // BOX, EM * FINE // LARGEST_EM)
    rows, columns = _weights(ink.shape[0], pitch), _weights(ink.shape[1], pitch)
    sums = (rows @ ink @ columns.T).astype(np.int64)
    return ((2 * sums + pitch**2) // (2 * pitch**2)).astype(np.uint8)


@memoised
def _weights(length: int, pitch: int) -> np.ndarray:
    """Return overlaps in subpixels: integers as float64, whose matrix products are fast and exact below 2⁵³."""
    return overlap_weights(SIZE, pitch, length, (length * FINE - SIZE * pitch) // 2, FINE).astype(np.float64)
