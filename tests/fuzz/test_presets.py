"""Presets, as somebody may have edited them: read, or refused in one line."""

from pathlib import Path

import pytest

import bench.config
from bench.config import load_preset

from .inputs import FAST, SLOW, survey

EXTRA = (
    b"summary = 1\nseeds = 1\n[image]\n",
    b'summary = "x"\nseeds = true\n[image]\n',
    b'summary = "x"\nseeds = 1\nimage = 3\n',
    b'summary = "x"\nseeds = 1\nimage = [{}]\n',
    b'summary = "x"\nseeds = 1\n[image]\nmodel = [1]\n',
    b'summary = "x"\nseeds = 1\n[image]\nnotes = "x"\n',
    b'summary = "x"\nseeds = 1\n[image.model]\nkernels = 3\n',
    b'summary = "x"\nseeds = 1\n[image.train]\nlr = inf\nepochs = 1979-05-27\n',
    b'summary = "x"\nseeds = 1\n[image.train]\nlr = {a = 1}\n',
    b"a = " + b"[" * 5000,
    b"9" * 5000 + b" = 1\n",
    b"seeds = " + b"9" * 5000,
    b"a." * 5000 + b"a = 1",
)


def presets(folder: Path):
    path = folder / "quick.toml"
    valid = (bench.config.PRESETS / "quick.toml").read_bytes()
    bench.config.PRESETS = folder

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load_preset("quick", "image")
        load_preset("quick", "text", {"train": {"epochs": 3}}, protocol="synthetic")

    return valid, read


@pytest.mark.parametrize("count", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_an_edited_preset_is_read_or_refused_in_one_line(count, tmp_path):
    tally = survey(presets, count, tmp_path, seed=count, extra=EXTRA)
    assert tally.read and tally.refused
