"""Yelp: reviews of the 2015 Yelp challenge with their stars, as Yang et al. (2017) cut them.

100,000 reviews to train on, 10,000 each to validate and test, 96 words on average; every line is ``label<TAB>review``,
words outside of the vocabulary are written ``_UNK``.
"""

from __future__ import annotations

from pathlib import Path

from bench.data.corpus import Published
from bench.data.dataset import Prepared

SUMMARY = "Yelp reviews of Yang et al. (2017), with stars: downloaded, or from DATA_DIR/yelp"
NEEDS_DOWNLOAD = True

_URL = "https://raw.githubusercontent.com/yaoxiaoyuan/vae/HEAD/data/yelp/yelp.{}.txt"

PUBLISHED = Published(
    name="yelp",
    title="yelp (Yang 2017)",
    source="data/yelp of github.com/yaoxiaoyuan/vae",
    urls={"train": _URL.format("train"), "val": _URL.format("valid"), "test": _URL.format("test")},
    blobs={
        "train": "2c4c802349fd14b932d2dead17846ca6b4e1b870",
        "val": "5280a264fbc11a7795cef76bb79541d67e65c568",
        "test": "8c61afcb9c034eb53cc390c315c276fbdbed5a19",
    },
    # 19,997 is He et al.'s figure; that it is 19,996 here agrees with the list of words beside the published files.
    note="He et al. (2019) count 19,997 words: _UNK, which is <unk> here, beside an <unk> that never occurs.",
)


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Yelp from ``data_dir/yelp`` or the download; ``UserError`` where neither will do.

    The files are ``{train,val,test}.txt`` or, as published, ``yelp.{train,valid,test}.txt``.
    """
    return PUBLISHED.prepare(data_dir, cache)
