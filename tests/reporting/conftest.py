"""Stored cells with fabricated numbers, written once and copied for every test that changes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.make_cells import TEXT_CELLS, write


@pytest.fixture(scope="session")
def image_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods and three seeds on images. Do not change."""
    out = tmp_path_factory.mktemp("image-cells")
    write(out)
    return out


@pytest.fixture(scope="session")
def text_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods and two seeds on text. Do not change."""
    out = tmp_path_factory.mktemp("text-cells")
    write(out, **TEXT_CELLS)
    return out


@pytest.fixture
def out(image_cells: Path, tmp_path: Path) -> Path:
    """A copy of the image cells."""
    return shutil.copytree(image_cells, tmp_path / "out")


@pytest.fixture
def text_out(text_cells: Path, tmp_path: Path) -> Path:
    """A copy of the text cells."""
    return shutil.copytree(text_cells, tmp_path / "text-out")
