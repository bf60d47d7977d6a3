"""Yahoo: questions and answers of Yahoo Answers, as Yang et al. (2017) cut them, 20 to 200 words each.

Yang, Hu, Salakhutdinov & Berg-Kirkpatrick (2017), *Improved Variational Autoencoders for Text Modeling using Dilated
Convolutions*. 100,000 documents to train on, 10,000 each to validate and test; lower case, tokenised, words outside of
their 20,000 written ``_UNK``. The copy in github.com/harvardnlp/DeepLatentNLP is free of the search-and-replace damage
("tc" → "torch") that others have.
"""

from __future__ import annotations

from pathlib import Path

from bench.data.corpus import SPLITS, Published
from bench.data.dataset import Prepared

SUMMARY = "Yahoo Answers of Yang et al. (2017), 20 to 200 words: downloaded, or from DATA_DIR/yahoo"
NEEDS_DOWNLOAD = True

PUBLISHED = Published(
    name="yahoo",
    title="yahoo (Yang 2017)",
    source="data/yahoo of github.com/harvardnlp/DeepLatentNLP",
    urls={
        split: f"https://raw.githubusercontent.com/harvardnlp/DeepLatentNLP/master/data/yahoo/{split}.txt"
        for split in SPLITS
    },
    blobs={
        "train": "ae7d4fc4d07e520dffdbd835868a1d7c7a6eb471",
        "val": "4f7681b64f55d6f33461b1c604c2328124b4a092",
        "test": "fc5b20a939d06b657a857b423aa8772904ab434a",
    },
    # 20,001 is He et al.'s figure; 20,000 here follows from how their reader counts and is not checked on the files.
    note="He et al. (2019) count 20,001 words: _UNK, which is <unk> here, beside an <unk> that never occurs.",
)


def prepare(data_dir: Path | None, cache: Path) -> Prepared:
    """Yahoo from ``data_dir/yahoo/{train,val,test}.txt`` or the download; ``UserError`` where neither will do."""
    return PUBLISHED.prepare(data_dir, cache)
