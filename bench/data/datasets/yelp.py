"""Yelp: reviews of the 2015 Yelp challenge with their number of stars, selected by Yang et al. (2017).

100,000 training, 10,000 validation and 10,000 test reviews, 96 words on average; every line is ``label<TAB>review``,
with ``_UNK`` for words outside the vocabulary.
"""

from __future__ import annotations

from bench.data.corpus import PublishedCorpus

SUMMARY = "Yelp reviews of Yang et al. (2017), with stars: downloaded, or from DATA_DIR/yelp"
NEEDS_DOWNLOAD = True

_URL = "https://raw.githubusercontent.com/yaoxiaoyuan/vae/HEAD/data/yelp/yelp.{}.txt"

PUBLISHED = PublishedCorpus(
    name="yelp",
    title="yelp (Yang 2017)",
    source="data/yelp of github.com/yaoxiaoyuan/vae",
    urls={"train": _URL.format("train"), "val": _URL.format("valid"), "test": _URL.format("test")},
    blobs={
        "train": "2c4c802349fd14b932d2dead17846ca6b4e1b870",
        "val": "5280a264fbc11a7795cef76bb79541d67e65c568",
        "test": "8c61afcb9c034eb53cc390c315c276fbdbed5a19",
    },
    # 19,997 is He et al.'s figure; 19,996 here agrees with the word list published with the files.
    note="He et al. (2019) report 19,997 words: _UNK (here <unk>) and also an <unk> that never occurs.",
)
prepare = PUBLISHED.prepare
