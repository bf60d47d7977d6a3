"""Glyphs: rendering, exact rounding, and the split by look-alike characters."""

import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from matplotlib import ft2font

from bench.data.dataset import SPLITS
from bench.data.datasets import glyphs

same_renderer = pytest.mark.skipif(
    (ft2font.__freetype_version__, unicodedata.unidata_version) != ("2.14.3", "14.0.0"),
    reason="another FreeType renders other images, and another Unicode version has other characters",
)


@pytest.fixture(scope="module")
def two_fonts(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "FONTS", ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"))
        return glyphs.prepare(None, tmp_path_factory.mktemp("cache"))


def test_glyphs_are_distinct_and_split_by_character(two_fonts):
    arrays = two_fonts.arrays()
    images = np.concatenate([arrays[split] for split in SPLITS])
    assert len({image.tobytes() for image in images}) == len(images) > 4000
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1
    assert images.max(axis=(1, 2)).min() > 0  # none empty
    shares = np.array(list(two_fonts.info.sizes.values())) / len(images)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    characters = [{*arrays[f"{split}_characters"].tolist()} for split in SPLITS]
    assert not any(one & other for one, other in itertools.combinations(characters, 2))


def test_glyphs_are_centred_and_labelled_by_block(two_fonts):
    arrays = two_fonts.arrays()
    for split in SPLITS:
        names, characters = arrays["label_names"][arrays[f"{split}_labels"]], arrays[f"{split}_characters"]
        assert {*names[(0x400 <= characters) & (characters <= 0x4FF)]} == {"Cyrillic"}
        assert "other" not in names
        for profile in (arrays[split].any(axis=2), arrays[split].any(axis=1)):
            before, after = profile.argmax(axis=1), profile[:, ::-1].argmax(axis=1)
            assert np.abs(before - after).max() <= 1 and before.min() >= (glyphs.SIZE - glyphs.BOX) // 2


def test_look_alike_characters_form_a_group(monkeypatch):
    a, b, c, d = (np.full((60, width), 255, np.uint8) for width in (10, 20, 30, 40))
    fonts = {"1.ttf": [(1, a), (2, b), (3, c), (4, d)], "2.ttf": [(2, a), (3, b)]}
    monkeypatch.setattr(glyphs, "FONTS", tuple(fonts))
    monkeypatch.setattr(glyphs, "_characters", lambda path: iter(fonts[path.name]))
    images, characters, groups = glyphs.render(Path())
    assert len(images) == 4 and characters.tolist() == [1, 2, 3, 4] and groups.tolist() == [1, 1, 1, 4]


@same_renderer
def test_two_fonts_have_the_known_fingerprint(two_fonts):
    assert two_fonts.info.fingerprint[:12] == "9ac648ce0cfb"


@same_renderer
@pytest.mark.slow
def test_glyphs_have_the_published_fingerprint(tmp_path):
    prepared = glyphs.prepare(None, tmp_path)
    assert prepared.info.fingerprint[:12] == "efaf91919172" and sum(prepared.info.sizes.values()) == 32_617
