"""MNIST: handwritten digits, 28×28.

LeCun, Bottou, Bengio & Haffner (1998), *Gradient-Based Learning Applied to Document Recognition*. Grey values are the
Bernoulli means of dynamic binarisation; this is not the fixed binarisation of Larochelle & Murray (2011).
"""

from __future__ import annotations

from bench.data.datasets._idx import PublishedImages

SUMMARY = "handwritten digits, 28×28: downloaded, or from DATA_DIR/mnist or torchvision's DATA_DIR/MNIST/raw"
NEEDS_DOWNLOAD = True

PUBLISHED = PublishedImages(
    name="mnist",
    title="mnist (28×28)",
    source="the files of LeCun et al. (1998)",
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    digests={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    folders=("mnist", "MNIST/raw"),
    label_names=[*"0123456789"],
)
prepare = PUBLISHED.prepare
