"""Fashion-MNIST: articles of clothing, 28×28.

Xiao, Rasul & Vollgraf (2017), *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*
(arXiv 1708.07747). Grey values are the Bernoulli means of dynamic binarisation.
"""

from __future__ import annotations

from bench.data.datasets._idx import PublishedImages

SUMMARY = "clothing, 28×28: downloaded, or from DATA_DIR/fashion_mnist or torchvision's DATA_DIR/FashionMNIST/raw"
NEEDS_DOWNLOAD = True

PUBLISHED = PublishedImages(
    name="fashion_mnist",
    title="fashion_mnist (28×28)",
    source="data/fashion of github.com/zalandoresearch/fashion-mnist",
    url="https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    digests={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    folders=("fashion_mnist", "FashionMNIST/raw"),
    label_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
prepare = PUBLISHED.prepare
