"""Yahoo: documents of Yahoo Answers, selected by Yang et al. (2017), 20 to 200 words each.

Yang, Hu, Salakhutdinov & Berg-Kirkpatrick (2017), *Improved Variational Autoencoders for Text Modeling using Dilated
Convolutions*. 100,000 training, 10,000 validation and 10,000 test documents; lower case, tokenised, with ``_UNK`` for
words outside their vocabulary of 20,000. The copy in github.com/harvardnlp/DeepLatentNLP does not have the
search-and-replace damage ("tc" → "torch") of other copies.
"""

from __future__ import annotations

from bench.data.corpus import PublishedCorpus
from bench.data.dataset import SPLITS

SUMMARY = "Yahoo Answers of Yang et al. (2017), 20 to 200 words: downloaded, or from DATA_DIR/yahoo"
NEEDS_DOWNLOAD = True

PUBLISHED = PublishedCorpus(
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
    # 20,001 is He et al.'s figure; 20,000 here follows from how their reader counts and is not verified on the files.
    note="He et al. (2019) report 20,001 words: _UNK (here <unk>) and also an <unk> that never occurs.",
)
prepare = PUBLISHED.prepare
